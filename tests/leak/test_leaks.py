"""Nothing crosses from one VNI to another, whatever a member with root on its own host sends to the gateway.

One gateway engine with three VNIs, two of them with the same prefix. Each has a member with its keys, a TUN, and a relay queue
in which everything that the gateway sends to that member can be seen. Policy allows everything here: it is not what holds.
For every ordered pair of VNIs a member of the first tries to reach the second; what arrives there is looked at, not assumed,
and the drop is counted under its name.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine_rig import ENGINES, echo_request, ip_packet, tcp_packet, udp_packet, whole
from kairos.crypto.schedule import Direction, EpochSecret, VniKey
from kairos.wire.datagram import DatagramHeader, DatagramType, nonce
from kairos_dataplane import Dataplane, FlowOpened, SessionKey, Verdict

NUMBERS = {"red": 1, "blue": 2, "vault": 3}
PREFIX = {"red": "10.7.0", "blue": "10.7.0", "vault": "10.8.0"}  # red and blue overlap
MARK = b"a packet that must not cross"
PAIRS = list(itertools.permutations(NUMBERS, 2))


@dataclass
class Member:
    """A member of one VNI, with everything its tunnel gave it. secret: of its tunnel, so also of its key in other VNIs
    that it is not in: the gateway never installed those."""

    name: str
    secret: EpochSecret
    session: int
    relay: int
    tun: socket.socket
    counter: int = 0

    @property
    def vni(self) -> int:
        return NUMBERS[self.name]

    @property
    def address(self) -> str:
        return f"{PREFIX[self.name]}.2"

    @property
    def host(self) -> str:
        """What stands behind the gateway's TUN in this VNI."""
        return f"{PREFIX[self.name]}.1"

    def key(self, vni: int) -> VniKey:
        return self.secret.vni_key(vni, Direction.TO_GATEWAY)

    def seal(self, packet: bytes, *, session: int | None = None, vni: int | None = None, epoch: int = 0) -> bytes:
        """A datagram as this member can make it: any receiver index, any key that derives from its own secret."""
        key = self.key(self.vni if vni is None else vni)
        header = DatagramHeader(
            DatagramType.DATA, epoch, self.session if session is None else session, self.counter
        ).pack()
        sealed = AESGCM(key.key).encrypt(nonce(key.iv, self.counter), whole(packet), header)
        self.counter += 1
        return header + sealed


class Gateway:
    def __init__(self, engine: Dataplane) -> None:
        self.engine = engine
        self.members = {name: self._member(name, index) for index, name in enumerate(NUMBERS, 1)}

    def _member(self, name: str, relay: int) -> Member:
        engine, vni = self.engine, NUMBERS[name]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        with theirs:
            engine.add_vni(vni, theirs.fileno())
        engine.add_relay(relay)
        member = Member(name, EpochSecret(0, os.urandom(48)), engine.add_session(vni), relay, ours)
        engine.set_remote(member.session, 1)
        lease = ip_network(f"{member.address}/32")
        engine.add_lease(member.session, lease)
        engine.add_route(vni, lease, member.session)
        engine.add_route(vni, ip_network(f"{PREFIX[name]}.0/24"), 0)
        key, back = member.key(vni), member.secret.vni_key(vni, Direction.TO_ENDPOINT)
        engine.install_keys([SessionKey(member.session, 0, each.key, each.iv, each is back) for each in (key, back)])
        engine.use_relay(member.session, relay, follow=True)
        return member

    def put(self, member: Member, *datagrams: bytes) -> dict[str, int]:
        """Sends them as that member, allows every flow that opens; what was dropped for it, by name."""
        before = self.engine.counters()
        self.engine.put_relay(member.relay, b"".join(len(d).to_bytes(2) + d for d in datagrams))
        self.engine.settle()
        while events := self.engine.events():
            for event in events:
                if isinstance(event, FlowOpened):
                    self.engine.verdict(event.flow.id, Verdict.ALLOW, 1, 1)
        after = self.engine.counters()
        return {n: v - before[n] for n, v in after.items() if n.startswith("drop_") and v != before[n]}

    def reached(self, name: str) -> bool:
        """Did anything come out in this VNI: at its TUN, or towards its member?"""
        member = self.members[name]
        out = select.select([member.tun], [], [], 0)[0]
        if out:
            member.tun.recv(1 << 17)
        return bool(out) or bool(self.engine.take_relay(member.relay))

    def close(self) -> None:
        self.engine.close()
        for member in self.members.values():
            member.tun.close()


@pytest.fixture(params=sorted(ENGINES))
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    made = Gateway(ENGINES[request.param]())
    yield made
    made.close()


def packet(src: str, dst: str) -> bytes:
    return udp_packet(src, dst, MARK)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_way_that_is_meant_is_open(gateway: Gateway, name: str) -> None:
    """Else the suite would prove nothing."""
    member = gateway.members[name]
    assert gateway.put(member, member.seal(packet(member.address, member.host))) == {}
    assert gateway.reached(name)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_another_vnis_address_stays_in_ones_own(gateway: Gateway, here: str, there: str) -> None:
    """Where prefixes overlap the packet is for the neighbour of that name here; elsewhere there is no route."""
    mallory, other = gateway.members[here], gateway.members[there]
    targets = [other.host, f"{PREFIX[there]}.77", other.address]
    overlap = PREFIX[here] == PREFIX[there]
    drops = gateway.put(mallory, *(mallory.seal(packet(mallory.address, target)) for target in targets))
    assert not gateway.reached(there)
    assert drops == ({"drop_no_route": 1} if overlap else {"drop_no_route": 3})


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_foreign_or_invented_source_is_dropped(gateway: Gateway, here: str, there: str) -> None:
    mallory, other = gateway.members[here], gateway.members[there]
    sources = {other.host, f"{PREFIX[there]}.77", mallory.host, "127.0.0.1", "0.0.0.0", "192.0.2.1"}
    sent = [mallory.seal(packet(source, other.host)) for source in sorted(sources)]
    assert gateway.put(mallory, *sent) == {"drop_spoofed_source": len(sources)}
    assert not gateway.reached(there)
    assert not gateway.reached(here)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_ones_own_key_with_anothers_index_opens_nothing(gateway: Gateway, here: str, there: str) -> None:
    """Also not with the key that the own secret would give for that VNI: a key is a (peer, VNI, direction, epoch)."""
    mallory, other = gateway.members[here], gateway.members[there]
    inner = packet(other.address, other.host)
    sent = [mallory.seal(inner, session=other.session, vni=vni) for vni in (mallory.vni, other.vni)]
    assert gateway.put(mallory, *sent) == {"drop_auth": 2}
    assert not gateway.reached(there)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_the_other_vnis_key_under_ones_own_index_opens_nothing(gateway: Gateway, here: str, there: str) -> None:
    mallory, other = gateway.members[here], gateway.members[there]
    sent = mallory.seal(packet(mallory.address, mallory.host), vni=other.vni)
    assert gateway.put(mallory, sent) == {"drop_auth": 1}
    assert not gateway.reached(here)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_recorded_datagram_replayed_into_another_vni_opens_nothing(gateway: Gateway, here: str, there: str) -> None:
    mallory, other = gateway.members[here], gateway.members[there]
    recorded = other.seal(packet(other.address, other.host))
    assert gateway.put(other, recorded) == {}
    assert gateway.reached(there)
    readdressed = bytearray(recorded)
    readdressed[4:8] = struct.pack("!I", mallory.session)
    assert gateway.put(mallory, bytes(readdressed)) == {"drop_auth": 1}
    assert gateway.put(mallory, recorded) == {"drop_replay": 1}
    assert not gateway.reached(here)
    assert not gateway.reached(there)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_crafted_packets_do_not_cross(gateway: Gateway, here: str, there: str) -> None:
    """Low TTL, ICMP errors that quote a foreign flow, fragments, SYNs: to the other VNI's host."""
    mallory = gateway.members[here]
    source, target = mallory.address, f"{PREFIX[there]}.77"
    low = bytearray(packet(source, target))
    low[8] = 1
    quote = udp_packet(target, source, MARK)[:28]
    crafted = [
        bytes(low),
        ip_packet(source, target, 1, struct.pack("!BBHI", 3, 1, 0, 0) + quote),
        ip_packet(source, target, 17, MARK, identity=7, fragment=0x2000),
        ip_packet(source, target, 17, MARK, identity=7, fragment=0x0010),
        tcp_packet(source, target),
        echo_request(source, target),
    ]
    gateway.put(mallory, *(mallory.seal(each) for each in crafted))
    assert not gateway.reached(there)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_multicast_and_broadcast_stay_home(gateway: Gateway, here: str, there: str) -> None:
    mallory = gateway.members[here]
    targets = ["224.0.0.1", "239.1.2.3", "255.255.255.255"]
    drops = gateway.put(mallory, *(mallory.seal(packet(mallory.address, target)) for target in targets))
    assert drops == {"drop_multicast": len(targets)}
    assert not gateway.reached(there)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_member_that_was_removed_reaches_nothing_and_the_others_live_on(
    gateway: Gateway, here: str, there: str
) -> None:
    mallory, other = gateway.members[here], gateway.members[there]
    kept = mallory.seal(packet(mallory.address, mallory.host))
    gateway.engine.cut_session(mallory.session)
    assert gateway.put(mallory, kept) == {"drop_unknown_session": 1}
    assert not gateway.reached(here)
    assert gateway.put(other, other.seal(packet(other.address, other.host))) == {}
    assert gateway.reached(there)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_lease_that_moved_is_good_in_its_new_session_only(gateway: Gateway, here: str, there: str) -> None:
    """The address was given to a successor: the old holder, still keyed, must not speak for it."""
    mallory, engine = gateway.members[here], gateway.engine
    successor = engine.add_session(mallory.vni)
    moved = f"{PREFIX[here]}.99"
    engine.add_lease(successor, ip_network(f"{moved}/32"))
    engine.add_route(mallory.vni, ip_network(f"{moved}/32"), successor)
    assert gateway.put(mallory, mallory.seal(packet(moved, mallory.host))) == {"drop_spoofed_source": 1}
    assert not gateway.reached(here)
    assert not gateway.reached(there)


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_an_epoch_that_was_never_agreed_opens_nothing(gateway: Gateway, here: str, there: str) -> None:
    mallory = gateway.members[here]
    sent = mallory.seal(packet(mallory.address, gateway.members[there].host), epoch=1)
    assert gateway.put(mallory, sent) == {"drop_unknown_epoch": 1}
    assert not gateway.reached(there)
