"""UDP packets joined at the TUN, and super-packets taken apart there: nobody can tell from what arrives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_rig import ENGINES, HOST, HOST6, PEER, PEER6, PEER_INDEX, Rig, rig_on, udp_packet, wait_until
from kairos.wire.datagram import TRAILER, SegmentKind
from kairos_dataplane.pure.packet import checksum, parse_untrusted, pseudo_sum
from kairos_dataplane.pure.segments import Offload, whole_untrusted

C_ENGINES = [name for name in sorted(ENGINES) if name != "pure"]
DF = 0x4000
PORTS = ((4000, 5000), (4001, 5000))
Packet = tuple[Offload, bytes]


def of_kernel(packet: bytes) -> Packet:
    """As a TUN hands it over: the checksum holds the pseudo-header's sum, the rest is ours."""
    parsed = parse_untrusted(packet)
    at, total = parsed.l4 + 6, pseudo_sum(parsed.src, parsed.dst, parsed.protocol, len(packet) - parsed.l4)
    return Offload(1, csum_start=parsed.l4, csum_offset=6), packet[:at] + total.to_bytes(2) + packet[at + 2 :]


def numbered(packet: bytes, identity: int, flags: int = 0, tos: int = 0) -> bytes:
    """An IPv4 packet with these in its header."""
    head = bytes((packet[0], tos)) + packet[2:4] + identity.to_bytes(2) + flags.to_bytes(2) + packet[8:10] + b"\0\0"
    head += packet[12:20]
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + packet[20:]


def normal(packet: Packet) -> Packet:
    """RFC 6864: the id of a packet that must not be fragmented says nothing."""
    offload, data = packet
    return offload, numbered(data, 0, DF, data[1]) if data[0] >> 4 == 4 and data[6] == DF >> 8 else data


def burst(rig: Rig, packets: list[Packet]) -> None:
    before = rig.engine.counters()["tx_packets"]
    for offload, data in packets:
        rig.tun.send(offload.pack() + data)
    wait_until(lambda: rig.engine.counters()["tx_packets"] == before + len(packets))


def arrived(rig: Rig) -> list[Packet]:
    return [normal(whole_untrusted(plain)) for _, plain in rig.sent()]


def open_flows(rig: Rig) -> None:
    for ports in PORTS:
        rig.allow_from_peer(udp_packet(PEER, HOST, b"", ports[::-1]))
        rig.allow_from_peer(udp_packet(PEER6, HOST6, b"", ports[::-1]))


@st.composite
def bursts(draw: st.DrawFn) -> list[Packet]:
    """Mostly packets that can be joined, with all that must not be between them."""
    packets, identity = [], draw(st.integers(0, 0xFFFF))
    for content in range(draw(st.integers(1, 80))):
        size = draw(st.sampled_from([100] * 12 + [0, 1, 99, 101, 1000]))
        odd = draw(st.sampled_from(["no"] * 12 + ["v6", "v6", "v6 port", "port", "tos", "id", "df", "whole"]))
        ports, payload = PORTS[odd.endswith("port")], bytes([content]) * size
        identity = identity + 1 + 7 * (odd == "id") & 0xFFFF
        if odd.startswith("v6"):
            packet = udp_packet(HOST6, PEER6, payload, ports)
        else:
            plain = udp_packet(HOST, PEER, payload, ports)
            packet = numbered(plain, identity, DF if odd == "df" else 0, 2 if odd == "tos" else 0)
        packets.append((Offload(), packet) if odd == "whole" else of_kernel(packet))
    return packets


@pytest.mark.parametrize("native", C_ENGINES)
def test_a_burst_arrives_as_it_was_sent_and_counts_as_the_twin_counts(native: str) -> None:
    with rig_on(native) as c, rig_on("pure") as pure:
        for rig in (c, pure):
            open_flows(rig)

        @settings(max_examples=60)
        @given(bursts())
        def check(packets: list[Packet]) -> None:
            for rig in (c, pure):
                burst(rig, packets)
                assert arrived(rig) == [normal(packet) for packet in packets]
            assert c.counted() == pure.counted()
            assert _volumes(c) == _volumes(pure)

        check()


def _volumes(rig: Rig) -> list[tuple[object, ...]]:
    return sorted((str(f.src), f.src_port, f.dst_port, f.packets, f.bytes) for f in rig.engine.flows())


@pytest.mark.parametrize("native", C_ENGINES)
@pytest.mark.parametrize("version", [4, 6])
def test_packets_that_wait_together_are_joined(native: str, version: int) -> None:
    ends = (HOST, PEER) if version == 4 else (HOST6, PEER6)
    packets = [of_kernel(udp_packet(*ends, bytes([n]) * 100)) for n in range(50)]
    if version == 4:
        packets = [of_kernel(numbered(data, n, DF)) for n, (_, data) in enumerate(packets)]
    with rig_on(native) as rig:
        open_flows(rig)
        kinds = set[int]()

        def joined() -> bool:
            """Whether some do wait together is the scheduler's choice, so it is tried until they have."""
            burst(rig, packets)
            kinds.update(TRAILER.unpack(plain[-TRAILER.size :])[0] for _, plain in rig.sent())
            return (SegmentKind.UDP4 if version == 4 else SegmentKind.UDP6) in kinds

        wait_until(joined)


@pytest.mark.parametrize("native", C_ENGINES)
def test_packets_of_a_flow_that_waits_for_its_verdict_are_parked_apart(native: str) -> None:
    long = udp_packet(HOST, PEER, bytes(60_000), PORTS[0])  # the others pile up behind it
    with rig_on(native) as rig:
        open_flows(rig)
        for port in range(4100, 4120):
            plain = [udp_packet(HOST, PEER, bytes([n]) * 1000, (port, 5000)) for n in range(8)]
            packets = [of_kernel(numbered(packet, 0, DF)) for packet in plain]
            rig.tun.send(Offload(1, 5, 28, 1000, 20, 6).pack() + long)
            for offload, data in packets:
                rig.tun.send(offload.pack() + data)
            wait_until(lambda parked=8 * (port - 4099): rig.counted()["parked"] == parked + 4)  # type: ignore[misc]
            rig.engine.set_remote(rig.session, PEER_INDEX)  # the batch has ended: its events are out
            rig.sent()
            rig.judge()
            assert arrived(rig) == packets


def super_packet(version: int) -> list[bytes]:
    """The plaintexts of two pieces, 5.5 KB together."""
    ends, headers = ((PEER, HOST), 28) if version == 4 else ((PEER6, HOST6), 48)
    packet = udp_packet(*ends, b"", PORTS[0][::-1])
    template = numbered(packet, 0xFFFF) if version == 4 else packet
    kind = SegmentKind.UDP4 if version == 4 else SegmentKind.UDP6
    return [
        bytes([index]) * size + template + TRAILER.pack(kind, headers, 3000, index, 2)
        for index, size in enumerate((3000, 2500))
    ]


@pytest.mark.parametrize("native", C_ENGINES)
@pytest.mark.parametrize("version", [4, 6])
def test_a_tun_that_refuses_a_udp_super_packet_gets_its_datagrams(native: str, version: int) -> None:
    outcomes = []
    for name in (native, "pure"):
        with rig_on(name) as rig:
            open_flows(rig)
            rig.put(*(rig.seal(plain) for plain in super_packet(version)))
            assert len(rig.to_host()) == (2 if name == "pure" else 1)
            rig.limit_tun()  # what kernels before 6.2 say with EINVAL
            rig.put(*(rig.seal(plain) for plain in super_packet(version)))
            outcomes.append((rig.to_host(), rig.counted(), _volumes(rig)))
    assert len(outcomes[0][0]) == 2
    assert outcomes[0] == outcomes[1]
