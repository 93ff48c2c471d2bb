"""The relay path: what the real Relay object carries, and how long it lets a frame wait.

A fabric of two workerd processes, two enrolled nodes with session tokens, and the nodes' own relay links with all their
credit; both links are in this process, on one core. Beside it, with frames of the size of one packet, the least that a
Python Worker can do, and Tailscale's DERP. Then frames pass one at a time while the control Worker is kept busy: no API
call may delay traffic.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.link import Absent
from bench.processes import cpu_seconds, members, process_cpu_seconds
from bench.relay_ends import End, enrolled, granted, joined, settled
from bench.relay_peers import bare_relay, derp
from bench.rounds import Rounds
from fabric_host import TENANT, FabricHost, running_fabric
from kairos_node.state import Identity

SIZES = {"1k4": 1_400, "16k": 16_384, "64k": 65_536, "256k": 262_144}
_ENDLESS = 1 << 40
_PACKET = SIZES["1k4"]
_COMPILED_FRAMES = 30_000  # by then the runtime has compiled what a frame runs through
_WARM_UP_BYTES = 7_000_000  # before each figure: the runtime forgets what it compiled for code that rests
_WARM_UP_S = 0.3
_SECONDS, _QUICK_SECONDS = 2.5, 0.5
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
    with bare_relay(host.fabric.state / "relay.plan.json", folder / "bare") as (bare_url, bare_group):
        product, bare = Tested(host.fabric.group("relay"), identities), Tested(bare_group, bare_url)
        if not rounds.quick:
            for tested in (product, bare):
                await tested.warm_up()
        for _ in rounds:
            for name, size in SIZES.items():
                frames, octets, cpu = await product.carry(size, seconds)
                rounds.add(f"relay_{name}_mbit_per_s", octets * 8 / 1e6, "Mbit/s")
                rounds.add(f"relay_{name}_frames_per_s", frames, "frames/s")
                rounds.add(f"relay_{name}_cpu_us_a_frame", cpu * 1e6, "us of the relay")
                if size == _PACKET:
                    bare_frames, _, bare_cpu = await bare.carry(size, seconds)
                    rounds.add("relay_bare_frames_per_s", bare_frames, "frames/s")
                    rounds.add("relay_bare_cpu_us_a_frame", bare_cpu * 1e6, "us of the bare handler's relay")
                    rounds.add("relay_1k4_cpu_over_bare", cpu / bare_cpu, "times")
                    await asyncio.to_thread(_derp, rounds, seconds)
            await _delays(rounds, host, identities)


class Tested:
    """A relay in workerd. at: two enrolled nodes for the product's, the URL of one that asks for no token."""

    def __init__(self, group: int, at: tuple[Identity, Identity] | str) -> None:
        self._group, self._at = group, at

    async def warm_up(self) -> None:
        async with self._joined() as (endpoint, gateway):
            await endpoint.send(_PACKET, _COMPILED_FRAMES)
            await settled(gateway.queue)

    async def carry(self, size: int, seconds: float) -> tuple[float, float, float]:
        """Frames of one size from endpoint to gateway: (frames a second, payload bytes a second, CPU seconds of the relay a
        frame)."""
        async with self._joined() as (endpoint, gateway):
            queue = gateway.queue
            await endpoint.send(size, _WARM_UP_BYTES // size)
            await settled(queue)
            await endpoint.send(size, _ENDLESS)
            began, frames, octets, cpu = time.monotonic(), queue.frames, queue.bytes, cpu_seconds(self._group)
            await asyncio.sleep(seconds)
            took, spent = time.monotonic() - began, cpu_seconds(self._group) - cpu
            frames, octets = queue.frames - frames, queue.bytes - octets
            endpoint.queue.left = 0
            await settled(queue)
        return frames / took, octets / took, spent / frames

    @asynccontextmanager
    async def _joined(self) -> AsyncIterator[tuple[End, End]]:
        if isinstance(self._at, str):
            ends = (f"{self._at}/gateway", ""), (f"{self._at}/endpoint", "")
        else:
            ends = await granted(self._at[0]), await granted(self._at[1])
        async with joined(*ends) as pair:
            yield pair


def _derp(rounds: Rounds, seconds: float) -> None:
    """The same packets through Tailscale's relay."""
    try:
        with derp(_PACKET) as relay:
            time.sleep(_WARM_UP_S)
            packets, cpu = relay.measure(seconds)
    except Absent as absent:
        rounds.missing("relay_derp", str(absent))
        return
    rounds.add("relay_derp_packets_per_s", packets, "packets/s")
    rounds.add("relay_derp_cpu_us_a_packet", cpu * 1e6, "us of the DERP server")


async def _delays(rounds: Rounds, host: FabricHost, identities: tuple[Identity, Identity]) -> None:
    """What one frame each 2 ms waits on its way, with the control Worker idle, then busy."""
    async with joined(await granted(identities[0]), await granted(identities[1])) as (endpoint, gateway):
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
