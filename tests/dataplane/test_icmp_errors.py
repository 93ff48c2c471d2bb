"""ICMP errors: from where the packet went to where it came from, about an allowed flow, and counted there."""

from __future__ import annotations

import struct

import pytest
from joined_vnis import assert_sound, icmp_error
from parties import PARTIES, Parties, address

from engine_rig import Rig, ip_packet, tcp_packet, udp_packet
from kairos_dataplane import Verdict
from kairos_dataplane.pure.packet import ACK, ICMP, ICMP6, UDP, parse_untrusted

MOST = {4: 576, 6: 1280}


@pytest.fixture
def parties(rig: Rig) -> Parties:
    return Parties(rig)


def question(source: str, destination: str, version: int, payload: bytes = b"question") -> bytes:
    return udp_packet(address(source, version), address(destination, version), payload)


def unreachable(source: str, destination: str, version: int, about: bytes) -> bytes:
    kind = (3, 3) if version == 4 else (1, 4)
    return icmp_error(address(source, version), address(destination, version), about, kind)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("asks", "answers"), [("peer", "host"), ("host", "peer"), ("peer", "bob")])
def test_an_error_reaches_the_source_of_what_it_is_about(
    parties: Parties, asks: str, answers: str, version: int
) -> None:
    flow = parties.allow(asks, question(asks, answers, version))
    error = unreachable(answers, asks, version, question(asks, answers, version))
    parties.send(answers, error)
    assert parties.received(asks) == [error]
    assert parties.rig.drops() == {}
    (live,) = parties.rig.engine.flows()
    assert (live.id, live.packets, live.bytes) == (flow.id, (1, 1), (flow.bytes[0], len(error)))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("sender", PARTIES)
@pytest.mark.parametrize("to", PARTIES)
def test_no_other_error_is_delivered(parties: Parties, sender: str, to: str, version: int) -> None:
    """A flow of peer and bob is allowed. Nobody but bob may speak of it, and only to the peer, whatever is quoted."""
    asked = question("peer", "bob", version)
    flow = parties.allow("peer", asked)
    if (sender, to) == ("bob", "peer"):
        return
    parties.send(sender, unreachable(sender, to, version, asked))
    assert [parties.received(party) for party in PARTIES] == [[], [], [], []]
    assert parties.rig.drops() == {"drop_misdirected_icmp": 1}
    (live,) = parties.rig.engine.flows()
    assert live.packets == flow.packets


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_says_nothing_of_what_is_not_allowed(parties: Parties, version: int) -> None:
    asked = question("peer", "bob", version)
    error = unreachable("bob", "peer", version, asked)
    parties.send("bob", error)
    parties.send("peer", asked)
    parties.send("bob", error)
    parties.rig.judge(Verdict.DENY)
    parties.received("peer")
    parties.send("bob", error)
    later = asked[:6] + (8).to_bytes(2) + asked[8:]
    if version == 4:
        parties.send("bob", unreachable("bob", "peer", 4, later), unreachable("bob", "peer", 4, b"\x45" * 28))
    assert parties.received("peer") == []
    assert parties.rig.drops() == {"drop_unsolicited_icmp": 5 if version == 4 else 3, "drop_denied": 1}


def test_an_error_in_fragments_or_about_the_other_ip_version_is_none(parties: Parties) -> None:
    for version in (4, 6):
        parties.allow("peer", question("peer", "bob", version))
    body = struct.pack("!BBHI", 3, 3, 0, 0) + question("peer", "bob", 4)
    parties.send("bob", ip_packet(address("bob"), address("peer"), ICMP, body, fragment=0x2000))
    parties.send("bob", unreachable("bob", "peer", 4, question("peer", "bob", 6)))
    assert parties.received("peer") == []
    assert parties.rig.drops() == {"drop_unsolicited_icmp": 2}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [1400, 1401])
def test_a_long_error_is_cut_and_stays_as_sound_as_it_was(parties: Parties, version: int, size: int) -> None:
    """Also the field in which RFC 4884 says how long the quotation is."""
    asked = question("peer", "host", version, bytes(range(200)) * 7)[:size]
    parties.allow("peer", question("peer", "host", version))
    source, destination, kind = address("host", version), address("peer", version), (11, 0) if version == 4 else (3, 0)
    lengths = 200 << 16 if version == 4 else 200 << 24
    parties.send("host", icmp_error(source, destination, asked, kind, lengths))
    (error,) = parties.received("peer")
    assert len(error) == MOST[version]
    assert_sound(error)
    assert error == icmp_error(source, destination, asked[: len(error) - (28 if version == 4 else 48)], kind)
    broken = bytearray(icmp_error(source, destination, asked, kind, lengths))
    broken[-1] ^= 1
    parties.send("host", bytes(broken))
    (error,) = parties.received("peer")
    assert len(error) == MOST[version]
    with pytest.raises(AssertionError):
        assert_sound(error)


def test_a_fragment_that_was_too_large_is_told(parties: Parties) -> None:
    """Path MTU discovery of a first fragment, and of TCP with the eight bytes that old hosts quote."""
    parties.allow("peer", question("peer", "host", 4))
    first = ip_packet(
        address("peer"), address("host"), UDP, question("peer", "host", 4)[20:] + bytes(8), fragment=0x2000
    )
    parties.send("host", icmp_error(address("host"), address("peer"), first, (3, 4), 1280))
    errors = parties.received("peer")
    segment = tcp_packet(address("peer"), address("host"), ACK, b"data")
    parties.allow("peer", segment)
    parties.send("host", icmp_error(address("host"), address("peer"), segment[:28], (3, 4), 1280))
    errors += parties.received("peer")
    assert [parse_untrusted(error).protocol for error in errors] == [ICMP, ICMP]


@pytest.mark.parametrize("version", [4, 6])
def test_the_host_does_not_speak_for_the_peers(parties: Parties, version: int) -> None:
    """What arrives on the TUN with a peer's address as its source did not come from that peer."""
    parties.allow("peer", question("peer", "bob", version))
    parties.send("host", question("peer", "bob", version), question("mallory", "bob", version))
    assert (parties.rig.opened(), parties.received("bob")) == ([], [])
    assert parties.rig.drops() == {"drop_spoofed_source": 2}
    assert parties.rig.engine.session_offences(parties.sessions["peer"]).spoofed == 0


def test_an_icmp6_error_behind_more_options_than_it_may_be_long_is_refused(parties: Parties) -> None:
    parties.allow("peer", question("peer", "host", 6))
    error = icmp_error(address("host", 6), address("peer", 6), question("peer", "host", 6), (1, 4))[40:]
    options = bytes([ICMP6, 159]) + bytes(1278)
    parties.send("host", ip_packet(address("host", 6), address("peer", 6), 60, options + error))
    assert parties.received("peer") == []
    assert parties.rig.drops() == {"drop_bad_packet": 1}
