"""What all senders share has a share for each of them: whatever one does, another still gets its own."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from parties import PARTIES, Parties, address

from engine_rig import Rig, ip_packet, tcp_packet, udp_packet, wait_until, whole
from kairos.wire.datagram import DatagramType
from kairos_dataplane import ControlReceived, FlowOpened, PathKind, PathMoved, Verdict
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


EVENTS_A_SENDER = 1024
WAITING = {"host": 1024, "peer": 512, "bob": 512, "mallory": 512}
TABLE = 4096  # flows of a rig


def questions(source: str, count: int, first: int = 1) -> list[bytes]:
    to = "bob" if source != "bob" else "peer"
    ports = ((1 + n % 60000, 53 + n // 60000) for n in range(first, first + count))
    return [udp_packet(address(source), address(to), b"", each) for each in ports]


@pytest.mark.parametrize("flooding", [("mallory",), ("host",), ("host", "mallory", "bob")])
def test_a_flood_of_questions_delays_those_of_another_by_one_turn(parties: Parties, flooding: tuple[str, ...]) -> None:
    for party in flooding:
        parties.send(party, *questions(party, WAITING[party] + 100))
    parties.send("peer", *questions("peer", 1))
    first = parties.rig.engine.events()[: len(flooding) + 1]
    assert parties.sessions["peer"] in [event.flow.session for event in first if isinstance(event, FlowOpened)]
    assert parties.rig.drops()["drop_undecided"] == 100 * len(flooding)


def test_control_datagrams_take_no_room_from_the_questions_of_others(parties: Parties) -> None:
    for _ in range(20):
        for _ in range(200):
            parties.send_control("mallory", DatagramType.KEEPALIVE, b"k" * 1200)
    assert parties.rig.drops() == {"drop_event_full": 20 * 200 - EVENTS_A_SENDER}
    parties.send("peer", *questions("peer", 512))
    sessions = [event.flow.session for event in parties.rig.events() if isinstance(event, FlowOpened)]
    assert sessions.count(parties.sessions["peer"]) == 512


def test_a_path_that_moves_often_is_told_as_it_is(rig: Rig) -> None:
    """Alternating between relay and two ports cost two events a datagram; only the newest place matters."""
    with rig.over_udp() as (ours, peer):
        rig.engine.use_relay(rig.session, 1, follow=True)
        for count in range(1, 51):
            peer.sendto(rig.seal(b"", DatagramType.KEEPALIVE), ours.getsockname())
            wait_until(lambda: rig.counted().get("rx_datagrams", 0) == count)  # noqa: B023
            rig.put(rig.seal(b"", DatagramType.KEEPALIVE))
        moves = [event for event in rig.events() if isinstance(event, PathMoved)]
    assert moves == [PathMoved(rig.session, PathKind.RELAY, None, 1)]


def test_one_senders_waiting_packets_leave_places_for_all_others(parties: Parties) -> None:
    for party in ("host", "mallory", "bob"):
        parties.send(party, *questions(party, WAITING[party]))
    parties.send("peer", *questions("peer", 1))
    for flow in parties.rig.opened():
        parties.rig.engine.verdict(
            flow.id, Verdict.ALLOW if flow.session == parties.sessions["peer"] else Verdict.DENY, 1, 1
        )
    assert questions("peer", 1)[0] in parties.received("bob")


def test_however_many_flood_the_table_some_of_it_is_free(parties: Parties) -> None:
    for party in ("host", "mallory", "bob"):
        for first in range(1, TABLE, 500):
            parties.send(party, *questions(party, 500, first))
            parties.rig.judge(Verdict.DENY)
            parties.received(party)
    parties.send("peer", *questions("peer", 100))
    assert len(parties.rig.judge()) == 100


def test_a_question_that_is_lost_is_asked_again(rig: Rig) -> None:
    """Its records are taken by control datagrams of the same peer, so the loss is its own; the flow is not stuck."""
    packet = udp_packet(address("peer"), address("host"), b"question")
    for _ in range(EVENTS_A_SENDER):
        rig.put(rig.seal(b"", DatagramType.KEEPALIVE))
    rig.put(rig.seal(whole(packet)))
    assert rig.drops() == {"drop_event_full": 1}
    assert {type(event) for event in rig.events()} == {ControlReceived}
    asked = []

    def ask() -> bool:
        rig.put(rig.seal(whole(packet)))
        asked.extend(rig.opened())
        return bool(asked)

    wait_until(ask)
    assert 1.0 <= asked[0].age_s < 5.0
    assert rig.engine.verdict(asked[0].id, Verdict.ALLOW, 1, 1)
    assert rig.to_host()[0][1] == packet


def test_a_question_that_is_not_answered_is_asked_again_until_its_flow_is_over(rig: Rig) -> None:
    """Traffic does not keep a flow alive that nobody decides: after 5 s it is opened anew. None is asked twice at once."""
    packet = udp_packet(address("peer"), address("host"), b"question")
    asked = []

    def another_flow() -> bool:
        rig.put(rig.seal(whole(packet)), rig.seal(whole(packet)))
        batch = rig.opened()
        assert len(batch) <= 1
        asked.extend(batch)
        return len({flow.id for flow in asked}) == 2

    wait_until(another_flow)
    ages = [flow.age_s for flow in asked[:-1]]
    assert len(ages) >= 3
    assert all(later - earlier >= 0.9 for earlier, later in pairwise(ages))
    assert rig.counted()["flows_aged"] == 1


def test_a_question_whose_flow_is_decided_or_gone_is_not_handed_out(rig: Rig) -> None:
    """As after a change of policy, for which all flows are judged."""
    ports = [(1, 53), (2, 53), (3, 53)]
    rig.put(*(rig.seal(whole(udp_packet(address("peer"), address("host"), b"", each))) for each in ports))
    decided = {flow.src_port: flow for flow in rig.engine.flows()}
    rig.engine.verdict(decided[1].id, Verdict.ALLOW, 1, 1)
    rig.engine.verdict(decided[2].id, Verdict.DENY, 1, 1)
    assert [flow.src_port for flow in rig.opened()] == [3]


def test_packets_of_a_flow_that_ends_undecided_are_counted(rig: Rig) -> None:
    rig.put(*(rig.seal(whole(udp_packet(address("peer"), address("host"), b"", (1, 53)))) for _ in range(3)))
    rig.engine.cut_session(rig.session)
    assert rig.events() == []
    assert rig.drops() == {"drop_pending": 3}


ANSWERS_AT_ONCE, ANSWERS_A_SECOND = 100, 100


@pytest.mark.parametrize("kind", ["reset", "prohibited"])
@pytest.mark.parametrize("flooding", ["mallory", "host"])
def test_one_sender_gets_so_many_answers_and_takes_none_from_another(
    parties: Parties, flooding: str, kind: str
) -> None:
    """RFC 4443 §2.4(f), and the same for TCP."""
    make = tcp_packet if kind == "reset" else udp_packet

    def answers(source: str, count: int) -> int:
        packet = make(address(source), address("bob"), payload=b"no")
        for _ in range(count):
            parties.send(source, packet)
            parties.rig.judge(Verdict.DENY)
        return len(parties.received(source))

    began = time.monotonic()
    got = answers(flooding, 500)
    assert ANSWERS_AT_ONCE <= got <= ANSWERS_AT_ONCE + ANSWERS_A_SECOND * (time.monotonic() - began) + 1
    counted = parties.rig.counted()
    assert (counted["rejects_sent"], counted["answers_limited"], counted["drop_denied"]) == (got, 500 - got, 500)
    assert answers("peer", 10) == 10
