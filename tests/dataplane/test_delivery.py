"""The law of delivery: with any peers, each engine delivers only what delivery_model.py lets pass, and counts it.

The parties do all that a peer can: speak for others, quote anything in ICMP of every type, send fragments in any order and
over each other, hide headers behind headers, flood. What one sender does must not change what becomes of another's packets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from delivery_model import ANSWERS_AT_ONCE, Model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joined_vnis import icmp_error
from parties import PARTIES, Parties, address

from engine_rig import ENGINES, Rig, ip_packet, rig_on, tcp_packet, udp_packet
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Flow, Verdict
from kairos_dataplane.pure.packet import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP

EXAMPLES = {"c-ipsec-mb": 90, "c-openssl": 300, "pure": 300}  # the AEAD library makes no difference here
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60


def holder(packed: bytes) -> str:
    """The host has all addresses that no peer has."""
    known = {ip_address(address(party, version)).packed: party for party in PARTIES for version in (4, 6)}
    return known.get(packed, "host")


# -- what a peer can send ----------------------------------------------------------------------------------------------

parties = st.sampled_from(PARTIES)
versions = st.sampled_from((4, 4, 6))
ports = st.tuples(st.integers(1, 2), st.integers(1, 2))


def icmp(ends: tuple[str, str], kind: int, identifier: int) -> bytes:
    protocol = ICMP if "." in ends[0] else ICMP6
    return ip_packet(*ends, protocol, struct.pack("!BBHHH", kind, 0, 0, identifier, 1))


@st.composite
def plain(draw: st.DrawFn) -> bytes:
    """A packet as programs send them, or an odd ICMP message, between any two."""
    version, source, destination = draw(versions), draw(parties), draw(parties)
    ends = address(source, version), address(destination, version)
    match draw(st.integers(0, 5)):
        case 0:
            flags = draw(st.sampled_from((SYN, SYN, ACK, SYN | ACK, RST, FIN | ACK)))
            return tcp_packet(*ends, flags, b"payload of TCP", draw(ports))
        case 1 | 2:
            return udp_packet(*ends, b"payload of UDP that fragments", draw(ports))
        case 3:
            echo = (8, 0) if version == 4 else (128, 129)
            return icmp(ends, draw(st.sampled_from(echo)), draw(st.integers(0, 1)))
        case 4:
            return icmp(ends, draw(st.integers(0, 255)), draw(st.integers(0, 1)))
        case _:
            return ip_packet(*ends, draw(st.sampled_from((47, 99, 132))), b"an unknown protocol")


def ends_of(packet: bytes) -> tuple[str, str]:
    src, dst = (packet[12:16], packet[16:20]) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40])
    return str(ip_address(src)), str(ip_address(dst))


@st.composite
def error(draw: st.DrawFn, about: st.SearchStrategy[bytes]) -> bytes:
    """About anything, by anyone, to anyone, of every type, short or long."""
    version = draw(versions)
    quoted = draw(about)
    if draw(st.booleans()):  # the end that the quoted packet went to tells the end that it came from, as it should be
        version, ends = quoted[0] >> 4, ends_of(quoted)[::-1]
    else:
        ends = address(draw(parties), version), address(draw(parties), version)
    kinds = (3, 3, 11, 12, 5, 4) if version == 4 else (1, 2, 3, 4, 137, 127)
    cut = draw(st.sampled_from((len(quoted), 28, 48, 7)))
    padding = draw(st.sampled_from((0, 0, 600, 1300)))
    return icmp_error(*ends, quoted[:cut] + bytes(padding), (draw(st.sampled_from(kinds)), draw(st.integers(0, 5))))


@dataclass(frozen=True)
class Cut:
    """Any part of a packet, from any byte on, with few identifications, so that they meet. options: IPv6 destination options
    behind the fragment header."""

    start: int
    size: int
    more: bool
    identity: int
    options: bool

    def of(self, packet: bytes) -> bytes:
        at, end = self.start, self.start + self.size
        if packet[0] >> 4 == 4:
            word = at // 8 | 0x2000 * self.more
            body = packet[20:].ljust(end if at < 100 else 0, b"f")[at:end]
            return ip_packet(*ends_of(packet), packet[9], body, identity=self.identity, fragment=word)
        body, following = packet[40:], packet[6]
        if self.options:
            body, following = bytes([following, 0, 1, 4, 0, 0, 0, 0]) + body, DESTINATION
        header = struct.pack("!BBHI", following, 0, at | self.more, self.identity)
        return ip_packet(*ends_of(packet), FRAGMENT, header + body.ljust(end if at < 100 else 0, b"f")[at:end])


cuts = st.builds(
    Cut,
    st.sampled_from((0, 0, 0, 8, 16, 24, 32, 0xFFF8)),
    st.sampled_from((8, 24, 40, 200, 4)),
    st.booleans(),
    st.integers(1, 2),
    st.booleans(),
)


def fragment(of: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda cut, packet: cut.of(packet), cuts, of)


@st.composite
def behind_headers(draw: st.DrawFn) -> bytes:
    """IPv6 with extension headers in any order, a few or many."""
    packet = draw(plain().filter(lambda packet: packet[0] >> 4 == 6))
    following, body = packet[6], packet[40:]
    kinds = st.sampled_from((HOP_BY_HOP, DESTINATION, DESTINATION, ROUTING, FRAGMENT))
    for kind in draw(st.lists(kinds, max_size=10)):
        body = struct.pack("!BBHI", following, 0, 0 if kind == FRAGMENT else 0x0104, 0) + body
        following = kind
    return ip_packet(*ends_of(packet), following, body)


@st.composite
def mutated(draw: st.DrawFn, of: st.SearchStrategy[bytes]) -> bytes:
    packet = bytearray(draw(of))
    for _ in range(draw(st.integers(1, 3))):
        at, value = draw(st.integers(0, min(len(packet), 80) - 1)), draw(st.integers(0, 255))
        packet[at] = value if at else packet[0] & 0xF0 | value & 0x0F  # it remains of its IP version
    return bytes(packet)


sound = plain()
fragments = fragment(sound)
errors = error(sound | fragments | error(sound))
anything = sound | fragments | errors | behind_headers() | fragment(errors)
packets = st.one_of(sound, sound, fragments, errors, errors, behind_headers(), anything, mutated(anything))


@dataclass(frozen=True)
class Send:
    """spoof: somebody else than the holder of its source sends it."""

    packet: bytes
    spoof: str | None


@dataclass(frozen=True)
class Judge:
    """Python answers what it was asked."""


@dataclass(frozen=True)
class Revoke:
    """Policy takes an allow back."""

    which: int


@dataclass(frozen=True)
class Again:
    """An earlier packet of anyone: as it was, in part, or turned round as an answer; sent by anyone or by its source."""

    which: int
    cut: Cut | None
    turned: bool
    spoof: str | None


@dataclass(frozen=True)
class Quote:
    """An ICMP error about an earlier packet. by, to: None is who should tell, and who should be told."""

    which: int
    kind: int
    by: str | None
    to: str | None
    padding: int


Step = Send | Judge | Revoke | Again | Quote
someone = st.none() | parties
which = st.integers(0, 30)
sends = st.builds(Send, packets, st.none() | someone)
again = st.builds(Again, which, st.none() | cuts, st.booleans(), someone)
quotes = st.builds(Quote, which, st.integers(0, 5), someone, someone, st.sampled_from((0, 0, 600, 1300)))
policies = st.frozensets(st.tuples(parties, parties), min_size=2, max_size=8)
steps = st.lists(
    st.one_of(sends, sends, again, quotes, st.just(Judge()), st.just(Judge()), st.builds(Revoke, st.integers(0, 9))),
    max_size=30,
)


def answer_to(packet: bytes) -> bytes:
    """The other way, between the same ports. Where it has options or extension headers, only the addresses are turned."""
    ends, plain = ends_of(packet)[::-1], packet[0] == 0x45 or packet[0] >> 4 == 6
    protocol, body = (packet[9], packet[20:]) if packet[0] >> 4 == 4 else (packet[6], packet[40:])
    if plain and protocol in (TCP, UDP):
        body = body[2:4] + body[:2] + body[4:]
    if plain and protocol in (ICMP, ICMP6) and body[:1] in (b"\x08", b"\x80"):
        body = bytes([0 if body[0] == 8 else 129]) + body[1:]
    return ip_packet(*ends, protocol, body)


# -- an engine and the model side by side ------------------------------------------------------------------------------


class Trial:
    def __init__(self, rig: Rig, policy: frozenset[tuple[str, str]]) -> None:
        self.parties, self.model, self.policy = Parties(rig), Model(holder), policy
        self._earlier: list[bytes] = []

    def take(self, step: Step) -> None:
        match step:
            case Send(packet, spoof):
                self.send(packet, spoof)
            case Again(which, cut, turned, spoof) if self._earlier:
                packet = self._earlier[which % len(self._earlier)]
                packet = answer_to(packet) if turned else packet
                self.send(cut.of(packet) if cut is not None else packet, spoof)
            case Quote(which, kind, by, to, padding) if self._earlier:
                about = self._earlier[which % len(self._earlier)]
                version, (src, dst) = about[0] >> 4, ends_of(about)
                ends = address(by, version) if by else dst, address(to, version) if to else src
                kinds = ((3, 3), (11, 0), (3, 4), (5, 1), (12, 0), (13, 0))
                kinds = kinds if version == 4 else ((1, 4), (3, 0), (2, 0), (137, 0), (4, 1), (5, 0))
                self.send(icmp_error(*ends, about + bytes(padding), kinds[kind]), None)
            case Judge():
                self.judge()
            case Revoke(which):
                self.revoke(which)
        self.look()

    def send(self, packet: bytes, spoof: str | None) -> None:
        party = spoof or self.source_of(packet)
        self._earlier.append(packet)
        self.model.sent(party, packet)
        self.parties.send(party, packet)

    @staticmethod
    def source_of(packet: bytes) -> str:
        return holder(ip_address(ends_of(packet)[0]).packed)

    def judge(self) -> None:
        for flow in self.parties.rig.opened():
            self.model.asked(flow)
            allow = (holder(flow.src.packed), holder(flow.dst.packed)) in self.policy
            verdict = Verdict.ALLOW if allow else Verdict.DENY
            if self.parties.rig.engine.verdict(flow.id, verdict, 1, 1):
                self.model.decided(flow, verdict)

    def revoke(self, which: int) -> None:
        self.judge()
        self.look()  # what waited has arrived under the verdict before
        flows = sorted(self.parties.rig.engine.flows(), key=lambda flow: flow.id)
        if flows:
            flow: Flow = flows[which % len(flows)]
            self.parties.rig.engine.verdict(flow.id, Verdict.DENY, 2, 2)
            self.model.decided(flow, Verdict.DENY)

    def look(self) -> None:
        for flow in self.parties.rig.engine.flows():
            self.model.counted(flow)
        for party in PARTIES:
            for packet in self.parties.received(party):
                self.model.arrived(party, packet)


def opening(policy: frozenset[tuple[str, str]], version: int) -> list[Step]:
    """What policy allows is under way: packets, and packets in fragments of which the rest may follow."""
    begun: list[Step] = []
    for source, destination in sorted(policy):
        packet = udp_packet(
            address(source, version), address(destination, version), b"payload of UDP that fragments", (1, 1)
        )
        begun += [Send(packet, None), Send(Cut(0, 24, True, 1, False).of(packet), None)]
    return [*begun, Judge()]


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_nothing_arrives_that_the_model_forbids(name: str) -> None:
    @settings(max_examples=EXAMPLES[name], suppress_health_check=[HealthCheck.too_slow])
    @given(policies, versions, steps)
    def check(policy: frozenset[tuple[str, str]], version: int, chosen: list[Step]) -> None:
        with rig_on(name) as rig:
            trial = Trial(rig, policy)
            for step in [*opening(policy, version), *chosen, Judge()]:
                trial.take(step)
            trial.model.check_accounts()
            assert max(trial.model.answers.values(), default=0) <= ANSWERS_AT_ONCE

    check()


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_what_is_allowed_arrives_whatever_came_before(name: str) -> None:
    """The model is a bound from above: an engine that drops everything would keep to it."""

    @settings(max_examples=EXAMPLES[name] // 3, suppress_health_check=[HealthCheck.too_slow])
    @given(steps, parties, parties.filter(lambda party: party != "host"), versions)
    def check(chosen: list[Step], asks: str, answers: str, version: int) -> None:
        if asks == answers:
            return
        with rig_on(name) as rig:
            trial = Trial(rig, frozenset({(asks, answers)}))
            for step in [*chosen, Judge()]:
                trial.take(step)
            here, there = address(asks, version), address(answers, version)
            echo = (8, 0) if version == 4 else (128, 129)
            question, answer = udp_packet(here, there, b"q", (7, 9)), udp_packet(there, here, b"a", (9, 7))
            told = icmp_error(there, here, question, (3, 4) if version == 4 else (2, 0))
            pings = icmp((here, there), echo[0], 77), icmp((there, here), echo[1], 77)
            cut = [ip_packet(here, there, UDP, question[20:], identity=9, fragment=0x2000)]
            cut.append(ip_packet(here, there, UDP, b"the rest", identity=9, fragment=2))
            for party, packet, arrives in (
                (asks, question, answers),
                (answers, answer, asks),
                (answers, told, asks),
                (asks, pings[0], answers),
                (answers, pings[1], asks),
                *((asks, piece, answers) for piece in cut if version == 4),
                (asks, tcp_packet(here, there, SYN, b"", (7, 9)), answers),
                (answers, tcp_packet(there, here, SYN | ACK, b"", (9, 7)), asks),
            ):
                trial.parties.send(party, packet)
                trial.judge()
                assert trial.parties.received(arrives) == [packet]

    check()


# -- no sender changes what becomes of another's packets ---------------------------------------------------------------

Act = Callable[[Parties, str], None]


def flood_flows(gateway: Parties, attacker: str) -> None:
    to = address("host")
    for first in range(0, 600, 300):
        gateway.send(attacker, *(udp_packet(address(attacker), to, b"", (first + n, 53)) for n in range(300)))


def flood_control(gateway: Parties, attacker: str) -> None:
    for _ in range(1100):
        gateway.send_control(attacker, DatagramType.KEEPALIVE, b"k")


def flood_fragments(gateway: Parties, attacker: str) -> None:
    l4 = udp_packet(address(attacker), address("host"), bytes(30), (5, 5))[20:]
    ends = address(attacker), address("host")
    gateway.send(attacker, *(ip_packet(*ends, UDP, l4, identity=each, fragment=0x2000) for each in range(200)))


def forge_errors(gateway: Parties, attacker: str) -> None:
    for source, destination in (("peer", "host"), ("host", "peer")):
        ends = address(source), address(destination)
        for quoted in (udp_packet(*ends, b"q", (7, 9)), tcp_packet(*ends, SYN, b"", (7, 9)), icmp(ends, 8, 1)):
            for victim in (source, destination):
                gateway.send(attacker, icmp_error(address(attacker), address(victim), quoted, (3, 3)))
                gateway.send(attacker, icmp_error(ends[1], ends[0], quoted, (3, 3)))


def speak_for_the_victim(gateway: Parties, attacker: str) -> None:
    ends = address("peer"), address("host")
    spoofed = [tcp_packet(*ends, flags, b"", (7, 9)) for flags in (SYN, RST, FIN | ACK)]
    spoofed += [udp_packet(*ends, b"spoof", (7, 9)), ip_packet(*ends, UDP, b"spoofed", identity=3, fragment=4)]
    gateway.send(attacker, *spoofed)


def provoke_answers(gateway: Parties, attacker: str) -> None:
    packet = tcp_packet(address(attacker), address("host"), SYN, b"", (9, 666))
    for _ in range(150):
        gateway.send(attacker, packet)


ACTS: list[Act] = [flood_flows, flood_control, flood_fragments, forge_errors, speak_for_the_victim, provoke_answers]
Acts = list[tuple[Act, str]]
Outcome = tuple[list[tuple[object, ...]], list[list[bytes]]]  # what was asked, and what arrived at peer and host


def lives_of_the_victims(gateway: Parties, acts: list[Acts]) -> list[Outcome]:
    """What peer and host see of each other, packet by packet, and what is asked about them; with `acts` of others before each
    packet. Python answers about the victims at once, and about the others when it comes to it."""
    here, there = address("peer"), address("host")
    l4 = udp_packet(here, there, bytes(56), (8, 9))[20:]
    script: list[tuple[str, bytes]] = [
        ("peer", tcp_packet(here, there, SYN, b"", (7, 9))),
        ("host", tcp_packet(there, here, SYN | ACK, b"", (9, 7))),
        ("peer", udp_packet(here, there, b"q", (7, 9))),
        ("peer", ip_packet(here, there, UDP, l4[:32], identity=3, fragment=0x2000)),
        ("peer", ip_packet(here, there, UDP, l4[32:], identity=3, fragment=4)),
        ("host", icmp_error(there, here, udp_packet(here, there, b"q", (7, 9)), (3, 3))),
        ("host", icmp((there, here), 8, 1)),
        ("peer", icmp((here, there), 0, 1)),
        ("peer", tcp_packet(here, there, SYN, b"", (7, 666))),
        ("host", udp_packet(there, here, b"new", (70, 90))),
        ("peer", tcp_packet(here, there, ACK, b"data", (7, 9))),
    ]
    seen: list[Outcome] = []
    for acting, (party, packet) in zip(acts, script, strict=True):
        for act, attacker in acting:
            act(gateway, attacker)
        gateway.send(party, packet)
        asked: list[tuple[object, ...]] = []
        for flow in gateway.rig.opened():
            ends = {holder(flow.src.packed), holder(flow.dst.packed)}
            allow = ends == {"peer", "host"} and flow.dst_port != 666
            gateway.rig.engine.verdict(flow.id, Verdict.ALLOW if allow else Verdict.DENY, 1, 1)
            if ends == {"peer", "host"}:
                asked.append((flow.src, flow.dst, flow.src_port, flow.dst_port, flow.packets))
        arrived = [
            [each for each in gateway.received(victim) if Trial.source_of(each) in ("peer", "host")]
            for victim in ("peer", "host")
        ]
        seen.append((asked, arrived))
    return seen


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_no_sender_changes_what_becomes_of_anothers_packets(name: str) -> None:
    with rig_on(name) as rig:
        alone = lives_of_the_victims(Parties(rig), [[]] * 11)
    assert sum(len(arrived) for _, both in alone for arrived in both) == 11  # a reset for the one that is denied

    acting = st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from(("bob", "mallory"))), max_size=2)

    @settings(max_examples=EXAMPLES[name] // 15, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(acting, min_size=11, max_size=11))
    def check(acts: list[Acts]) -> None:
        with rig_on(name) as rig:
            assert lives_of_the_victims(Parties(rig), acts) == alone

    check()


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_all_acts_at_once(name: str) -> None:
    with rig_on(name) as rig:
        alone = lives_of_the_victims(Parties(rig), [[]] * 11)
    every: Acts = [(act, attacker) for act in ACTS for attacker in ("bob", "mallory")]
    with rig_on(name) as rig:
        assert lives_of_the_victims(Parties(rig), [every] * 11) == alone
