"""What `kairos demo vni` counts as wrong; whether the network is right, the demo itself shows."""

from __future__ import annotations

import struct

import pytest

from kairos_cli.demo.matrix import REACHED, Cell, Watch, drawing, every_cell, mismatches
from kairos_cli.demo.place import cell_of
from kairos_cli.demo.probe import echo_request
from kairos_cli.demo.segments import MAY, PLACES, PORT

CELLS = every_cell()


def find(source: str, target: str, protocol: str = "tcp", version: int = 4) -> Cell:
    wanted = (source, target, protocol, version)
    return next(c for c in CELLS.values() if (c.source.name, c.target.name, c.protocol, c.version) == wanted)


def as_policy_says() -> dict[int, str]:
    return {number: REACHED if cell.allowed else "silence" for number, cell in CELLS.items()}


def test_every_pair_is_tried_six_times_and_the_table_names_only_places() -> None:
    names = {place.name for place in PLACES}
    assert len(CELLS) == len(names) * (len(names) - 1) * 6
    assert {name for pair in MAY for name in pair} <= names
    assert len({address for place in PLACES for address in place.addresses}) == 2 * len(PLACES)


def test_across_an_interconnect_the_other_side_has_its_other_name() -> None:
    assert find("alice@office", "carol@lab").address == "10.202.0.22"
    assert find("carol@lab", "bob@office", version=6).address == "fd21::12"
    assert find("dave@plant", "erin@store").address == "10.8.0.42"


@pytest.mark.parametrize("said", ["silence", "answered by carol@lab", "not tried"])
def test_who_should_be_reached_and_is_not_is_a_mismatch(said: str) -> None:
    outcomes = as_policy_says()
    assert mismatches(CELLS.values(), outcomes) == []
    outcomes[find("alice@office", "bob@office").number] = said
    assert [said in text for text in mismatches(CELLS.values(), outcomes)] == [True]
    assert "!" in drawing(CELLS.values(), outcomes)


@pytest.mark.parametrize("said", [REACHED, "answered by erin@store", "address already in use", "not tried"])
def test_only_what_a_network_says_is_a_denial(said: str) -> None:
    outcomes = as_policy_says()
    outcomes[find("dave@plant", "erin@store", "udp", 6).number] = said
    assert len(mismatches(CELLS.values(), outcomes)) == 1


def test_a_packet_is_a_leak_where_neither_end_is_and_where_a_denied_one_arrives() -> None:
    allowed, denied = find("alice@office", "bob@office"), find("alice@office", "bob@office", "udp")

    def leaked(name: str, cell: Cell, forward: bool = True) -> int:
        return Watch(name, (name,)).leaked(CELLS, [{"cell": cell.number, "forward": forward, "packets": 2}])

    assert (
        leaked("bob@office", allowed) == leaked("alice@office", denied) == leaked("alice@office", allowed, False) == 0
    )
    assert leaked("carol@lab", allowed) == leaked("bob@office", denied) == 2
    assert Watch("internet", ()).leaked(CELLS, [{"cell": allowed.number, "forward": True, "packets": 1}]) == 1


def ipv4(protocol: int, body: bytes) -> bytes:
    return struct.pack("!BBHHHBBH8x", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + body


def ipv6(protocol: int, body: bytes) -> bytes:
    return struct.pack("!IHBB32x", 6 << 28, len(body), protocol, 64) + body


def test_captures_know_probes_and_their_answers() -> None:
    there, back = struct.pack("!HH16x", 20_001, PORT), struct.pack("!HH16x", PORT, 20_001)
    assert cell_of(ipv4(17, there)) == cell_of(ipv6(6, there)) == (20_001, True)
    assert cell_of(ipv4(6, back)) == cell_of(ipv6(17, back)) == (20_001, False)
    assert (
        cell_of(ipv4(1, echo_request(8, 20_001, 1)))
        == cell_of(ipv6(58, echo_request(128, 20_001, 1)))
        == (20_001, True)
    )
    assert cell_of(ipv4(1, echo_request(0, 20_001, 1))) == (20_001, False)
    assert cell_of(ipv4(17, struct.pack("!HH16x", 53, 40_000))) is cell_of(b"") is cell_of(ipv4(47, there)) is None
