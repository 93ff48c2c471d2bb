"""The candidates that a gateway names, and where a path change shows in the data plane."""

from __future__ import annotations

import asyncio

import pytest

from engine_rig import RELAY, rig_on
from kairos.protocol.path import format_address
from kairos.wire.datagram import DatagramType
from kairos_node.path_prober import PathProber, parse_candidates

LARGEST = 1_420


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:7843", ("192.0.2.1", 7843)),
        ("[2001:db8::1]:7843", ("2001:db8::1", 7843)),
    ],
)
def test_a_candidate_is_an_address_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_candidates([text]) == [address]
    assert format_address(address) == text


@pytest.mark.parametrize(
    "text", ["", "gateway:7843", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", ":7843"]
)
def test_what_makes_no_sense_is_left_out(text: str) -> None:
    assert parse_candidates([text, "192.0.2.1:1"]) == [("192.0.2.1", 1)]


def test_direct_mode_sends_nothing_through_the_relay_and_relay_mode_never_probes() -> None:
    """Seen from the far side of a real engine: what leaves through the relay, and what does not."""

    async def story() -> None:
        with rig_on("pure") as rig:
            prober = PathProber(
                rig.engine,
                lambda: [rig.session],
                RELAY,
                [("192.0.2.1", 7843)],
                "relay",
                lambda: LARGEST,
                lambda _: None,
            )
            assert prober.current is None
            assert rig.sent() == []
            prober.set_mode("auto")
            assert [header.type for header, _ in rig.sent()] == [DatagramType.KEEPALIVE]
            prober.set_mode("direct")
            assert rig.sent() == []
            assert rig.engine.counters()["drop_no_relay"] == 1
            prober.close()

    asyncio.run(story())


def test_an_acknowledgement_of_our_probe_moves_the_path() -> None:
    async def story() -> None:
        moves: list[tuple[str, int] | None] = []
        with rig_on("pure") as rig:
            candidates = [("192.0.2.1", 7843)]
            prober = PathProber(
                rig.engine, lambda: [rig.session], RELAY, candidates, "auto", lambda: LARGEST, moves.append
            )
            prober.acknowledged_untrusted(b"\0\0\0\1\0\0", 38)
            assert moves == [("192.0.2.1", 7843)]
            assert prober.current == ("192.0.2.1", 7843)
            prober.acknowledged_untrusted(b"nonsense", 40)
            assert prober.current == ("192.0.2.1", 7843)
            prober.close()

    asyncio.run(story())
