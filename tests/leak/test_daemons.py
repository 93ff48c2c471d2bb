"""Nothing crosses from one VNI to another through whole daemons, whatever the owner of a device makes of its agent and its host.

For every ordered pair of four VNIs of two tenants, of which three have the same prefixes. The attacker holds the keys of its own
VNIs and can seal and send what it likes; policy allows everything; every packet that comes out in a VNI is looked at.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from engine_rig import ip_packet, tcp_packet, udp_packet
from kairos_dataplane.pure.packet import UDP
from overlay import TENANT, wait_for
from yard import NAMES, PAIRS, Segment, Yard, drops, mark, running_yard

EVERY_PAIR = pytest.mark.parametrize(("here", "there"), PAIRS)
SEND = """import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
for number, each in enumerate(sys.argv[2:]):
    data = bytes.fromhex(each)
    s.sendto(data, (sys.argv[1], {4: 0x0800, 6: 0x86DD}.get(data[0] >> 4, 0x0806)))
"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with running_yard(tmp_path_factory.mktemp("leak")) as made:
        yield made


@pytest.fixture
def pair(yard: Yard, here: str, there: str) -> Iterator[tuple[Segment, Segment]]:
    """Whatever the test sent has come out nowhere but at home."""
    segments = yard.segments[here], yard.segments[there]
    yield segments
    yard.await_arrival(segments[0])
    yard.await_arrival(segments[1])
    yard.assert_nothing_crossed()


def spread(segment: Segment) -> list[str]:
    """Addresses of that VNI: a member's, the gateway's, nobody's."""
    nobody = [str(ip_network(prefix)[201]) for prefix in segment.prefixes]
    return [*segment.neighbour.values(), *segment.routers.values(), *nobody]


@EVERY_PAIR
def test_the_other_vnis_addresses_lead_nowhere_else(yard: Yard, pair: tuple[Segment, Segment]) -> None:
    """Where prefixes overlap, to the neighbour of that name at home."""
    here, there = pair
    targets = spread(there)
    before = yard.send(here, here.seal(*(here.packet(target) for target in targets)))
    if set(here.prefixes).isdisjoint(there.prefixes):
        yard.await_drops(here, before, {"drop_no_route": len(targets)})


@EVERY_PAIR
def test_a_source_of_the_other_vni_is_spoofed(yard: Yard, pair: tuple[Segment, Segment]) -> None:
    here, there = pair
    sources = [each for each in (*spread(there), *there.own.values()) if each not in here.own.values()]
    sources += ["127.0.0.1", "0.0.0.0", "::1", "::ffff:10.7.0.2", "fe80::1"]
    targets = [here.neighbour[6 if ":" in source else 4] for source in sources]
    sealed = here.seal(*(here.packet(target, source) for source, target in zip(sources, targets, strict=True)))
    yard.await_drops(here, yard.send(here, sealed), {"drop_spoofed_source": len(sources)})


@EVERY_PAIR
def test_ones_own_key_with_the_others_index_opens_nothing(yard: Yard, pair: tuple[Segment, Segment]) -> None:
    here, there = pair
    inner = [udp_packet(source, there.neighbour[4], mark(here.number)) for source in (here.own[4], there.own[4])]
    before = yard.send(here, here.seal(*inner, index=there.index), to=there)
    yard.await_drops(there, before, {"drop_auth": len(inner)})


@EVERY_PAIR
def test_what_was_recorded_in_one_vni_is_not_taken_in_the_other(yard: Yard, pair: tuple[Segment, Segment]) -> None:
    here, there = pair
    recorded = here.seal(here.packet(here.neighbour[4]))
    yard.send(here, recorded)
    readdressed = [each[:4] + struct.pack("!I", there.index) + each[8:] for each in recorded]
    yard.await_drops(there, yard.send(here, readdressed, to=there), {"drop_auth": 1})
    yard.await_drops(here, yard.send(here, recorded), {"drop_replay": 1})
    other_epoch = [each[:2] + b"\x7f\xff" + each[4:] for each in recorded]
    yard.await_drops(here, yard.send(here, other_epoch), {"drop_unknown_epoch": 1})


@EVERY_PAIR
def test_crafted_packets_do_not_cross(yard: Yard, pair: tuple[Segment, Segment]) -> None:
    """The last hop's TTL, ICMP errors and redirects about foreign flows, fragments, source routes, tunnels in tunnels."""
    here, there = pair
    own, target, marked = here.own[4], there.neighbour[4], mark(here.number)
    quote = udp_packet(target, own, marked)
    loose_route = b"\x83\x07\x04" + socket.inet_aton(there.routers[4]) + b"\x00"
    routed = struct.pack(
        "!BBHHHBBH4s4s", 0x47, 0, 36 + len(marked), 7, 0, 64, UDP, 0, *map(socket.inet_aton, (own, here.neighbour[4]))
    )
    low = bytearray(here.packet(target))
    low[8] = 1
    crafted = [
        bytes(low),
        ip_packet(own, target, 1, struct.pack("!BBHI", 3, 1, 0, 0) + quote),
        ip_packet(own, here.routers[4], 1, struct.pack("!BBH4s", 5, 1, 0, socket.inet_aton(there.routers[4])) + quote),
        ip_packet(own, target, UDP, marked, identity=7, fragment=0x0010),
        ip_packet(own, target, UDP, struct.pack("!HHHH", 9, 9, 64, 0) + marked, identity=8, fragment=0x2000),
        routed + loose_route + struct.pack("!HHHH", 9, 9, 8 + len(marked), 0) + marked,
        ip_packet(own, here.routers[4], 4, there.packet(target)[:20] + marked),
        ip_packet(own, here.routers[4], 47, b"\0\0\x08\0" + here.packet(target)),
        tcp_packet(own, target, payload=marked),
        here.packet(there.neighbour[6]),
    ]  # fmt: skip
    before = yard.send(here, here.seal(*crafted))
    yard.await_drops(
        here,
        before,
        {"drop_unsolicited_icmp": 1, "drop_icmp_type": 1, "drop_unknown_fragment": 1, "drop_bad_packet": 1},
    )


@EVERY_PAIR
def test_neighbour_discovery_and_multicast_stay_home(yard: Yard, pair: tuple[Segment, Segment]) -> None:
    """ARP is no IP; router and neighbour advertisements, routing protocols, broadcast: none leaves its sender's tunnel."""
    here, there = pair
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, b"\x02" * 6, socket.inet_aton(there.routers[4]), b"\xff" * 6,
                      socket.inet_aton(there.neighbour[4])) + mark(here.number)  # fmt: skip
    advertised = struct.pack("!BBHI", 136, 0, 0, 0x6000_0000) + socket.inet_pton(socket.AF_INET6, there.routers[6])
    router = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + mark(here.number)
    groups = ["224.0.0.1", "224.0.0.5", "224.0.0.9", "239.1.2.3", "255.255.255.255", "ff02::1", "ff02::9", "ff05::1:3"]
    many = [here.packet(group) for group in groups]
    many += [ip_packet(here.own[6], "ff02::1", 58, body + mark(here.number)) for body in (advertised, router)]
    before = yard.send(here, here.seal(arp, *many))
    yard.await_drops(here, before, {"drop_bad_packet": 1, "drop_multicast": len(many)})


@pytest.mark.parametrize("here", NAMES)
def test_root_beside_an_honest_agent_gets_no_further(yard: Yard, here: str) -> None:
    """Raw packets into the VNI's own interface: the honest agent stops what its gateway would."""
    segment = yard.segments[here]
    host, others = segment.side.honest, [each for each in yard.segments.values() if each is not segment]
    vni = next(vni for vni in host.status()["vnis"] if vni["vni"] == segment.number)
    own = {4: segment.neighbour[4], 6: segment.neighbour[6]}
    crafted = [
        udp_packet(own[6 if ":" in to else 4], to, mark(segment.number)) for each in others for to in spread(each)
    ]
    crafted += [udp_packet(source, segment.own[6 if ":" in source else 4], mark(segment.number)) for each in others
                for source in each.own.values()]  # fmt: skip
    crafted += [udp_packet(own[4], "224.0.0.1", mark(segment.number)), b"\0\1\x08\0" + mark(segment.number)]
    before = sum(drops(host).values()) + sum(drops(segment.side.gateway).values())
    state = str(host.state.directory)
    sent = host.run(
        sys.executable, "-m", "kairos_cli.main", "exec", "--state", state, str(segment.number), "--",
        sys.executable, "-c", SEND, vni["interface"], *(packet.hex() for packet in crafted),
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    wait_for("drops", lambda: sum(drops(host).values()) + sum(drops(segment.side.gateway).values()) > before + 2)
    for each in yard.segments.values():
        yard.await_arrival(each)
    yard.assert_nothing_crossed()


def test_what_was_a_members_is_nobodys(yard: Yard) -> None:
    """Last: it changes who is where. An address that was given back is spoofed; a VNI that was left has no session."""
    office, twin = yard.segments["acme/office"], yard.segments["acme/twin"]
    rogue, members = office.side.rogue, f"/{TENANT}/vnis/{{}}/members/{office.side.rogue.node}"

    yard.overlay.fabric.admin("PUT", members.format("office"), {"addresses": ["10.7.0.77"]})
    wait_for("another address", lambda: "10.7.0.77/24" in str(rogue.status()["vnis"]))
    yard.await_arrival(office, "10.7.0.77")  # the epoch that the new Config brings has begun at both ends
    stale = office.seal(office.packet(office.neighbour[4], office.own[4]))
    yard.await_drops(office, yard.send(office, stale), {"drop_spoofed_source": 1})

    kept = twin.seal(twin.packet(twin.neighbour[4]))
    yard.overlay.fabric.admin("DELETE", members.format("twin"))
    wait_for("its end", lambda: [vni["name"] for vni in rogue.status()["vnis"]] == ["office"])
    yard.await_drops(twin, yard.send(twin, kept), {"drop_unknown_session": 1})
    yard.await_arrival(yard.segments["rival/office"])
    yard.assert_nothing_crossed()
