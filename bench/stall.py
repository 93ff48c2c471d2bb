"""Who waits for whom: what changes, relayed frames and the event loop wait for the packet threads of a saturated engine.

Another process sends bulk TCP to the engine as fast as it can; for `write_stall` both ways. Meanwhile this one, an event loop as a gateway's, hands relayed
frames over, changes routes and keys, and reads time stamps as they come: how long each of these took. Then: what 1,000 cuts
take, idle and beside that load, what 3,000 relay queues cost a datagram, and what an idle session holds in memory.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network

from bench.rounds import Rounds
from bench.scale import idle_in_own_process
from engine_rig import HOST, PEER, RELAY, TO_ENGINE, VNI, Rig, tcp_packet, udp_packet, wait_until, whole
from kairos_dataplane import SessionKey, Verdict, load
from kairos_dataplane.pure.packet import ACK
from kairos_dataplane.pure.segments import Offload

_SECONDS, _QUICK_SECONDS = 5.0, 0.5
_EVERY_S = 0.002  # a frame, and a change
_FRAME_DATAGRAMS = 48  # of 1.3 KB: a frame of 64 KB
_CUTS, _QUICK_CUTS = 1_000, 50
_FLOWS_A_CUT = 4
_QUEUES = 3_000
_PACKETS, _QUICK_PACKETS, _LOT = 20_000, 500, 50
_IDLE, _QUICK_IDLE = 300, 10
_OUT = udp_packet(HOST, PEER, bytes(1000))


def main() -> None:
    rounds = Rounds("stall", __doc__)
    quick = rounds.quick
    for _ in rounds:
        _measure(rounds, _QUICK_SECONDS if quick else _SECONDS, _QUICK_CUTS if quick else _CUTS)
        packets = _QUICK_PACKETS if quick else _PACKETS
        one, many = _costs_among((1, _QUEUES), packets)
        rounds.add(f"relay_queues_{_QUEUES}_cost_ratio", many / one, "of the cost among one")
        for name, value in idle_in_own_process(_QUICK_IDLE if quick else _IDLE).items():
            rounds.add(name, value, "kB resident")
    rounds.finish()


def _measure(rounds: Rounds, seconds: float, cuts: int) -> None:
    with _rig() as rig:
        rounds.add("cuts_1000_ms", _cut(rig, cuts), "ms for 1,000")
        with _saturated(rig, ways=1):
            before = rig.engine.counters()["rx_bytes"]
            began = time.monotonic()
            with _ticks() as ticks:
                _, puts, delays = asyncio.run(_event_loop(rig, seconds, ticks))
            received = rig.engine.counters()["rx_bytes"] - before
            rounds.add("receiver_gbit", received * 8 / (time.monotonic() - began) / 1e9, "Gbit/s meanwhile")
            rounds.add("cuts_1000_loaded_ms", _cut(rig, cuts), "ms for 1,000")
    with _rig() as rig, _saturated(rig, ways=2), _ticks() as ticks:
        writes, _, _ = asyncio.run(_event_loop(rig, seconds, ticks))
    rounds.add("write_stall_p50_us", statistics.median(writes) * 1e6, "us a change")
    rounds.add("write_stall_p99_us", _p99(writes) * 1e6, "us a change")
    rounds.add("put_relay_p99_ms", _p99(puts) * 1e3, "ms a frame of 64 KB")
    rounds.add("event_loop_delay_p99_ms", _p99(delays) * 1e3, "ms")


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@contextmanager
def _rig() -> Iterator[Rig]:
    """A gateway's engine, with room for a million flows."""
    rig = Rig(load("c"))
    try:
        yield rig
    finally:
        rig.close()


@contextmanager
def _saturated(rig: Rig, ways: int) -> Iterator[None]:
    """By bulk TCP from the peer; ways 2: and by as much to it."""
    rig.allow_from_peer(tcp_packet(PEER, HOST, ACK))
    with rig.over_udp() as (ours, _):
        port = str(ours.getsockname()[1])
        command = (
            sys.executable,
            "-m",
            "bench.programs.saturate",
            port,
            str(rig.session),
            str(rig.tun.fileno()),
            str(ways),
        )
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(rig.tun.fileno(),))
        try:
            before = rig.engine.counters()["rx_bytes"]
            wait_until(lambda: rig.engine.counters()["rx_bytes"] > before + 10_000_000)
            yield
        finally:
            peer.communicate()
            rig.tun.setblocking(True)  # the flag is shared with the peer's descriptor
            rig.engine.set_udp(-1)


@contextmanager
def _ticks() -> Iterator[int]:
    """The descriptor from which time stamps come."""
    command = (sys.executable, "-m", "bench.programs.ticks")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ticks:
        assert ticks.stdout is not None
        yield ticks.stdout.fileno()
        ticks.kill()


async def _event_loop(rig: Rig, seconds: float, ticks: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds that each change took, each frame, and that each time stamp waited."""
    writes: list[float] = []
    puts: list[float] = []
    delays: list[float] = []
    session, relayed = rig.engine.add_session(VNI), rig.engine.add_session(VNI)
    rig.engine.install_keys([SessionKey(relayed, 0, *TO_ENGINE, transmit=False)])
    frame = _frame(rig, relayed)
    loop = asyncio.get_running_loop()
    loop.add_reader(ticks, lambda: delays.extend(_waited(os.read(ticks, 4096))))
    until, number = loop.time() + seconds, 0
    while loop.time() < until:
        began = time.perf_counter()
        rig.engine.put_relay(RELAY, frame)
        put = time.perf_counter()
        _change(rig, session, number := number + 1)
        writes.append(time.perf_counter() - put)
        puts.append(put - began)
        while rig.engine.events():
            pass
        await asyncio.sleep(_EVERY_S)
    loop.remove_reader(ticks)
    rig.engine.cut_sessions([session, relayed])
    return writes, puts, delays


def _waited(stamps: bytes) -> list[float]:
    now = time.monotonic_ns()
    return [(now - int.from_bytes(stamps[at : at + 8])) / 1e9 for at in range(0, len(stamps), 8)]


def _change(rig: Rig, session: int, number: int) -> None:
    match number % 3:
        case 0:
            rig.engine.add_route(VNI, ip_network("192.0.2.0/24"), session)
        case 1:
            keys = [SessionKey(session, number, bytes(32), bytes(12), transmit) for transmit in (False, True)]
            rig.engine.install_keys(keys)
        case _:
            rig.engine.add_lease(session, ip_network(f"10.9.{number // 256 % 256}.{number % 256}"))


def _frame(rig: Rig, session: int) -> bytes:
    """Authentic when it comes first, and replayed afterwards: either is opened."""
    plain = whole(udp_packet(PEER, HOST, bytes(1250)))
    sealed = [rig.seal(plain, counter=n, session=session) for n in range(_FRAME_DATAGRAMS)]
    return b"".join(len(each).to_bytes(2) + each for each in sealed)


def _cut(rig: Rig, count: int) -> float:
    """Milliseconds for 1,000 cuts, one by one, of sessions with two routes and a few flows each."""
    sessions = []
    for number in range(count):
        session = rig.engine.add_session(VNI)
        address = f"10.88.{number // 250}.{number % 250 + 1}"
        for prefix in (f"{address}/32", f"10.89.{number // 250}.{number % 250}/32"):
            rig.engine.add_lease(session, ip_network(prefix))
            rig.engine.add_route(VNI, ip_network(prefix), session)
        rig.engine.install_keys([SessionKey(session, 0, bytes(range(32)), bytes(range(12)), transmit=False)])
        packets = [udp_packet(address, HOST, b"", (port, 53)) for port in range(1, _FLOWS_A_CUT + 1)]
        rig.put(*(rig.seal(whole(packet), counter=n, session=session) for n, packet in enumerate(packets)))
        rig.judge(Verdict.ALLOW)
        sessions.append(session)
    began = time.perf_counter()
    for session in sessions:
        rig.engine.cut_session(session)
    return (time.perf_counter() - began) * 1e3 * 1000 / count


def _costs_among(numbers: tuple[int, ...], packets: int) -> list[float]:
    """CPU seconds of an engine for so many packets into the first of so many relay queues, for each of the numbers. They take
    turns, so that a disturbance meets all."""
    costs = [0.0] * len(numbers)
    with ExitStack() as stack:
        rigs = [stack.enter_context(_with_queues(queues)) for queues in numbers]
        for _ in range(packets // _LOT):
            for place, rig in enumerate(rigs):
                costs[place] += _send_lot(rig)
    return costs


@contextmanager
def _with_queues(queues: int) -> Iterator[Rig]:
    with _rig() as rig:
        for relay in range(RELAY + 1, RELAY + queues):
            rig.engine.add_relay(relay)
        rig.from_host(_OUT)
        rig.judge()
        rig.engine.take_relay(RELAY)
        yield rig


def _send_lot(rig: Rig) -> float:
    sent = rig.engine.counters()["tx_packets"] + _LOT
    began, own = time.process_time(), time.thread_time()
    for _ in range(_LOT):
        rig.tun.send(Offload().pack() + _OUT)
    while rig.engine.counters()["tx_packets"] < sent:
        os.sched_yield()
    cost = time.process_time() - began - (time.thread_time() - own)
    rig.engine.take_relay(RELAY)
    return cost


if __name__ == "__main__":
    main()
