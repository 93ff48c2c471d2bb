"""The C engine and its twin are held equal: the same datagrams, packets and routes, the same answers and counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from engine_rig import ENGINES, HOST, HOST6, PEER, PEER6, VNI, Rig, both_ways, rig_on, tcp_packet, udp_packet, whole
from kairos.protocol.replay import ReplayWindow
from kairos.wire.datagram import REPLAY_WINDOW, TRAILER, DatagramType
from kairos_dataplane import Verdict
from kairos_dataplane.engine import COUNTERS
from kairos_dataplane.pure.segments import Offload

C_ENGINES = [name for name in sorted(ENGINES) if name != "pure"]
THOROUGH = settings(max_examples=effort(300, nightly=5000))


@contextlib.contextmanager
def twins(native: str) -> Iterator[tuple[Rig, Rig]]:
    with rig_on(native) as c, rig_on("pure") as pure:
        yield c, pure


def seen(rig: Rig) -> tuple[object, ...]:
    """All that can be told apart from outside, but for the clock."""
    flows = [(f.src, f.dst, f.src_port, f.dst_port, f.verdict, f.packets, f.bytes) for f in rig.engine.flows()]
    of_session = (rig.engine.session_stats(rig.session), rig.engine.session_offences(rig.session))
    return rig.to_host(), rig.sent(), sorted(flows, key=repr), rig.counted(), of_session


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_every_engine_counts_the_same_things(name: str) -> None:
    with rig_on(name) as rig:
        assert tuple(rig.engine.counters()) == COUNTERS


counters = st.integers(0, 20000) | st.integers(0, 2**64 - 1) | st.integers(2**64 - 9000, 2**64 - 1)


@THOROUGH
@given(st.lists(counters, max_size=60))
def test_replay_windows_agree(sequence: list[int]) -> None:
    model = ReplayWindow()
    expected = sum(model.accept(counter) for counter in sequence)
    with rig_on("c-openssl") as rig:
        rig.put(*(rig.seal(b"", DatagramType.KEEPALIVE, counter=counter) for counter in sequence))
        assert rig.engine.session_stats(rig.session)[1] == expected


@given(st.lists(st.integers(0, 3 * REPLAY_WINDOW), max_size=200))
def test_the_replay_model_is_a_set_and_a_bound(sequence: list[int]) -> None:
    window, accepted = ReplayWindow(), set[int]()
    for counter in sequence:
        legal = counter not in accepted and (not accepted or counter > max(accepted) - REPLAY_WINDOW)
        assert window.accept(counter) == legal
        if legal:
            accepted.add(counter)


plain = st.binary(max_size=200)
inner = st.sampled_from(
    [
        udp_packet(PEER, HOST, b"a" * 30),
        udp_packet(PEER6, HOST6, b"b" * 31),
        tcp_packet(PEER, HOST, payload=b"c" * 50),
        tcp_packet(PEER6, HOST6, payload=b"d" * 51),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(inner))
    for _ in range(draw(st.integers(0, 3))):
        packet[draw(st.integers(0, min(len(packet), 70) - 1))] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(1, len(packet)))] if draw(st.booleans()) else packet)


@st.composite
def segment(draw: st.DrawFn) -> bytes:
    """A payload, perhaps a template, and a trailer that may or may not fit them."""
    packet = draw(mutated())
    headers = draw(st.sampled_from([0, 28, 40, 48, 60]))
    body, template = packet[headers:], packet[:headers]
    kind, size = draw(st.integers(0, 7)), draw(st.sampled_from([0, len(body), 1000, 65535]))
    return body + template + TRAILER.pack(kind, headers, size, draw(st.integers(0, 4)), draw(st.integers(0, 5)))


@pytest.mark.parametrize("native", C_ENGINES)
def test_datagrams_are_judged_alike(native: str) -> None:
    @THOROUGH
    @given(st.lists(plain | segment() | mutated().map(whole), min_size=1, max_size=6), st.booleans())
    def check(plains: list[bytes], allow: bool) -> None:
        with twins(native) as rigs:
            for rig in rigs:
                for number, text in enumerate(plains):
                    rig.put(rig.seal(text, counter=number))  # one by one: the C engine joins what comes together
                    rig.judge(Verdict.ALLOW if allow else Verdict.DENY)
            assert seen(rigs[0]) == seen(rigs[1])

    check()


@pytest.mark.parametrize("native", C_ENGINES)
def test_packets_of_the_host_are_judged_alike(native: str) -> None:
    out = st.sampled_from(
        [
            (Offload(), udp_packet(HOST, PEER, b"a" * 30)),
            (Offload(1, csum_start=40, csum_offset=6), udp_packet(HOST6, PEER6, b"b" * 30)),
            (Offload(1, 1, 40, 100, 20, 16), tcp_packet(HOST, PEER, payload=b"c" * 950)),
            (Offload(1, 4, 60, 100, 40, 16), tcp_packet(HOST6, PEER6, payload=b"d" * 1000)),
            (Offload(1, 5, 28, 100, 20, 6), udp_packet(HOST, PEER, b"e" * 950)),
            (Offload(1, 5, 28, 2000, 20, 6), udp_packet(HOST, PEER, b"e" * 950)),
            (Offload(1, 1, 40, 100, 20, 16), udp_packet(HOST, PEER, b"f" * 950)),
            (Offload(0, 3, 0, 0, 0, 0), udp_packet(HOST, PEER, b"g")),
            (Offload(), udp_packet(HOST, "198.51.100.1", b"nowhere")),
            (Offload(), udp_packet(HOST, HOST, b"here")),
            (Offload(), tcp_packet(HOST, PEER, payload=b"h" * 1340)),
            (Offload(), udp_packet(HOST6, PEER6, b"i" * 1300)),
        ]
    )

    @settings(max_examples=effort(100, nightly=1000))
    @given(st.lists(out, min_size=1, max_size=6), st.booleans(), st.sampled_from([0, 576, 1420]))
    def check(packets: list[tuple[Offload, bytes]], allow: bool, limit: int) -> None:
        with twins(native) as rigs:
            for rig in rigs:
                rig.engine.set_limit(rig.session, limit)
                for offload, packet in packets:
                    rig.from_host(packet, offload=offload)
                    rig.judge(Verdict.ALLOW if allow else Verdict.DENY)
            assert seen(rigs[0]) == seen(rigs[1])

    check()


@pytest.mark.parametrize("native", C_ENGINES)
def test_flipped_bits_are_judged_alike(native: str) -> None:
    with twins(native) as rigs:
        for rig in rigs:
            rig.allow_from_peer(udp_packet(PEER, HOST, b"hello"))
            for bit in range(8 * len(rig.seal(whole(udp_packet(PEER, HOST, b"hello")), counter=7))):
                datagram = bytearray(rig.seal(whole(udp_packet(PEER, HOST, b"hello"))))
                datagram[bit // 8] ^= 0x80 >> bit % 8
                rig.put(bytes(datagram))
        assert seen(rigs[0]) == seen(rigs[1])
        assert rigs[0].counted()["rx_packets"] == 1


networks4 = st.builds(
    lambda a, n: ip_network((a << 20 >> (32 - n) << (32 - n) if n else 0, n)), st.integers(0, 0xFFF), st.integers(0, 32)
)
networks6 = st.builds(
    lambda a, n: IPv6Network((a << 112 >> (128 - n) << (128 - n) if n else 0, n)),
    st.integers(0, 0xFFFF),
    st.integers(0, 128),
)
operations = st.lists(st.tuples(networks4 | networks6, st.booleans()), max_size=12)


@pytest.mark.parametrize("native", C_ENGINES[:1])
def test_routes_are_found_alike(native: str) -> None:
    """Each route gets a session of its own, so that the datagram's receiver index tells which one was taken."""

    @settings(max_examples=effort(200, nightly=1000))
    @given(operations, st.lists(st.integers(1, 0xDFF), max_size=4), st.lists(st.integers(0, 0xFDFF), max_size=4))
    def check(routes: list[tuple[IPv4Network | IPv6Network, bool]], to4: list[int], to6: list[int]) -> None:
        destinations = [str(ip_address(value << 20)) for value in to4]
        destinations += [str(ip_address((1 << 127 | value << 112) % (1 << 128))) for value in to6 if value < 0x7C00]
        with twins(native) as rigs:
            for rig in rigs:
                set_routes(rig, routes)
                for number, destination in enumerate(destinations):
                    source = HOST6 if ":" in destination else HOST
                    rig.from_host(udp_packet(source, destination, b"x", (number + 1, 9)))
                    rig.judge()
            assert seen(rigs[0]) == seen(rigs[1])

    check()


def set_routes(rig: Rig, routes: list[tuple[IPv4Network | IPv6Network, bool]]) -> None:
    for number, (prefix, removed) in enumerate(routes):
        session = rig.engine.add_session(VNI)
        rig.engine.set_remote(session, 100 + number)
        rig.engine.install_keys(both_ways(session))
        rig.engine.use_relay(session, 1, follow=False)
        rig.engine.add_route(VNI, prefix, session)
        if removed:
            rig.engine.remove_route(VNI, prefix)
