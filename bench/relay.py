"""The relay path: what the real Relay object carries, and how long it lets a frame wait.

A fabric of two workerd processes, two enrolled nodes with session tokens, and the nodes' own relay links with all their
credit; both links are in this process, on one core. Then frames pass one at a time while the control Worker, beside it,
is kept busy: no API call may delay traffic.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench.processes import cpu_seconds, members, process_cpu_seconds
from bench.relay_ends import End, enrolled, joined, settled
from bench.rounds import Rounds
from fabric_host import TENANT, FabricHost, running_fabric
from kairos_node.state import Identity

SIZES = {"1k4": 1_400, "16k": 16_384, "64k": 65_536, "256k": 262_144}
_ENDLESS = 1 << 40
_WARM_UP_S = 0.3
_SECONDS, _QUICK_SECONDS = 1.5, 0.5
_PACE_S, _PACED_FRAME = 0.002, 1_400
_IDLE_S = 1.0
_BUSY_CPU_S, _BUSY_WAIT_S = 0.3, 10.0
_LOOK_S = 0.01
_CALLERS = 4


def main() -> None:
    rounds = Rounds("relay", __doc__)
    with tempfile.TemporaryDirectory(prefix="kairos-bench-") as name, running_fabric(Path(name) / "fabric") as host:
        asyncio.run(_measure(rounds, host, Path(name)))
    rounds.finish()


async def _measure(rounds: Rounds, host: FabricHost, folder: Path) -> None:
    identities = await enrolled(host, folder)
    seconds = _QUICK_SECONDS if rounds.quick else _SECONDS
    for _ in rounds:
        for name, size in SIZES.items():
            await _throughput(rounds, host, identities, name, size, seconds)
        await _delays(rounds, host, identities)


async def _throughput(
    rounds: Rounds, host: FabricHost, identities: tuple[Identity, Identity], name: str, size: int, seconds: float
) -> None:
    """Endpoint to gateway, frames of one size."""
    async with joined(*identities) as (endpoint, gateway):
        await endpoint.send(size, _ENDLESS)
        await asyncio.sleep(_WARM_UP_S)
        group, queue = host.fabric.group("relay"), gateway.queue
        began, frames, octets, cpu = time.monotonic(), queue.frames, queue.bytes, cpu_seconds(group)
        await asyncio.sleep(seconds)
        took, spent = time.monotonic() - began, cpu_seconds(group) - cpu
        frames, octets = queue.frames - frames, queue.bytes - octets
        rounds.add(f"relay_{name}_mbit_per_s", octets * 8 / took / 1e6, "Mbit/s")
        rounds.add(f"relay_{name}_frames_per_s", frames / took, "frames/s")
        rounds.add(f"relay_{name}_cpu_us_a_frame", spent / frames * 1e6, "us of the relay")
        endpoint.queue.left = 0
        await settled(queue)


async def _delays(rounds: Rounds, host: FabricHost, identities: tuple[Identity, Identity]) -> None:
    """What one frame each 2 ms waits on its way, with the control Worker idle, then busy."""
    async with joined(*identities) as (endpoint, gateway):
        pacing = asyncio.create_task(_pace(endpoint))
        try:
            await asyncio.sleep(_WARM_UP_S)
            gateway.queue.waits_ns.clear()
            await asyncio.sleep(_IDLE_S)
            _waits(rounds, "idle", gateway)
            spent = await _busy(host, gateway)
            _waits(rounds, "busy", gateway)
            rounds.add("control_busy_cpu_ms", spent * 1e3, "ms of the control Worker")
        finally:
            pacing.cancel()
        await settled(gateway.queue)


def _waits(rounds: Rounds, control: str, gateway: End) -> None:
    """What the frames since the last call have waited."""
    waits = sorted(gateway.queue.waits_ns)
    gateway.queue.waits_ns.clear()
    rounds.add(f"relay_{control}_delay_ms", waits[len(waits) * 99 // 100] / 1e6, "ms, 99th percentile")
    rounds.add(f"relay_{control}_delay_max_ms", waits[-1] / 1e6, "ms")


async def _pace(endpoint: End) -> None:
    while True:
        await endpoint.send(_PACED_FRAME, 1)
        await asyncio.sleep(_PACE_S)


async def _busy(host: FabricHost, gateway: End) -> float:
    """Keeps the control Worker at work until it has spent 300 ms of CPU; returns what it spent, in seconds. The gateway then
    remembers the waits of that time alone."""
    workerd = members(host.fabric.group("control"))

    def spent() -> float:
        return sum(map(process_cpu_seconds, workerd))

    url = f"{host.operator.url}/v1/tenants/{TENANT}/devices"
    program = (sys.executable, "-m", "bench.programs.calls", url, str(_CALLERS))
    pipe = asyncio.subprocess.PIPE
    callers = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe)
    assert callers.stdin is not None
    assert callers.stdout is not None
    callers.stdin.write(host.operator.admin_token.encode() + b"\n")
    await callers.stdout.readline()
    gateway.queue.waits_ns.clear()
    began, deadline = spent(), time.monotonic() + _BUSY_WAIT_S
    while time.monotonic() < deadline and callers.returncode is None:
        await asyncio.sleep(_LOOK_S)
        if spent() - began >= _BUSY_CPU_S:
            break
    callers.stdin.close()
    if await callers.wait() != 0:
        raise RuntimeError("the API refused a call")
    return spent() - began


if __name__ == "__main__":
    main()
