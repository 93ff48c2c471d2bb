"""What all senders share has a share for each of them: whatever one does, another still gets its own."""

from __future__ import annotations

import pytest
from parties import PARTIES, Parties, address

from engine_rig import Rig, ip_packet, udp_packet
from kairos_dataplane.pure.packet import UDP

FRAGMENTS = 128  # packets of one sender whose fragments are under way


@pytest.fixture
def parties(rig: Rig) -> Parties:
    return Parties(rig)


def fragments(
    source: str, destination: str, identity: int, ports: tuple[int, int] = (4000, 5000)
) -> tuple[bytes, bytes]:
    """A UDP packet in two."""
    ends = address(source), address(destination)
    l4 = udp_packet(*ends, b"f" * 56, ports)[20:]
    first = ip_packet(*ends, UDP, l4[:32], identity=identity, fragment=0x2000)
    return first, ip_packet(*ends, UDP, l4[32:], identity=identity, fragment=4)


@pytest.mark.parametrize("victim", PARTIES)
@pytest.mark.parametrize("attacker", PARTIES)
def test_nobodys_fragments_push_out_those_of_another(parties: Parties, victim: str, attacker: str) -> None:
    to = "bob" if victim != "bob" else "peer"
    first, later = fragments(victim, to, 7)
    parties.allow(victim, first)
    if attacker == victim:
        return
    target = "bob" if attacker != "bob" else "peer"
    parties.allow(attacker, fragments(attacker, target, 1)[0])
    parties.send(attacker, *(fragments(attacker, target, identity)[0] for identity in range(2000)))
    for party in PARTIES:
        parties.received(party)
    parties.send(victim, later)
    assert parties.received(to) == [later]
    assert parties.rig.drops() == {}


def test_a_sender_has_so_many_fragmented_packets_under_way_and_no_more(parties: Parties) -> None:
    parties.allow("peer", fragments("peer", "bob", 0)[0])
    cut = [fragments("peer", "bob", identity) for identity in range(FRAGMENTS + 1)]
    parties.send("peer", *(first for first, _ in cut))
    parties.received("bob")
    parties.send("peer", *(later for _, later in cut))
    assert parties.received("bob") == [later for _, later in cut[1:]]
    assert parties.rig.drops() == {"drop_unknown_fragment": 1}
