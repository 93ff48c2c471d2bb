"""`kairos proxy`: what a program gets through it, beside an agent with root, and without a TUN.

alice's program -- (agent's TUN | proxy and a TUN of its own | proxy and a veth pair) -- gateway -- bob, who sends

All real daemons, the fabric too, on the same cores. The direct path is in use; every connection is judged at three places.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rounds import Rounds
from overlay import Host, Overlay, running_overlay, wait_for
from rootless import PROXY, Rootless

_STREAMS = 32
_BYTES, _QUICK_BYTES = 1 << 29, 1 << 26
_CONNECTIONS, _QUICK_CONNECTIONS = 200, 20
_PROXY_PORT = PROXY.partition(":")[2]
_PROGRAM = (sys.executable, "-m", "bench.programs.streams")


def main() -> None:
    rounds = Rounds("proxy", __doc__)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_overlay(Path(folder)) as overlay,
        _serving(overlay),
        _rootless(overlay) as rootless,
    ):
        overlay.up(overlay.gateway, overlay.bob)
        for _ in rounds:
            agent = _measure(rounds, "agent", overlay, overlay.alice, "0")
            for name, has_tun in (("proxy", True), ("proxy_veth", False)):
                rootless.has_tun = has_tun
                rate = _measure(rounds, name, overlay, rootless, _PROXY_PORT)
                rounds.add(f"{name}_ratio", rate / agent, "")
    rounds.finish()


def _measure(rounds: Rounds, name: str, overlay: Overlay, host: Host, proxy: str) -> float:
    """Gbit/s of one stream; the others' figures are added too. The host's daemon runs for as long."""
    size, connections = (_QUICK_BYTES, _QUICK_CONNECTIONS) if rounds.quick else (_BYTES, _CONNECTIONS)
    overlay.up(host)
    wait_for("the direct path", lambda: host.tunnel().get("path") == "direct")
    bob = overlay.address_of(overlay.bob)
    rates = []
    for label, streams in (("tcp1", 1), (f"tcp{_STREAMS}", _STREAMS)):
        seconds = float(_said(host, "fetch", bob, proxy, str(streams), str(size // streams)))
        rates.append(size * 8 / seconds / 1e9)
        rounds.add(f"{name}_{label}_gbit", rates[-1], "Gbit/s")
    first = sorted(map(float, _said(host, "first", bob, proxy, str(connections)).split()))
    rounds.add(f"{name}_first_byte_p50_ms", statistics.median(first) * 1e3, "ms")
    rounds.add(f"{name}_first_byte_p95_ms", first[len(first) * 95 // 100] * 1e3, "ms")
    host.stop()
    return rates[0]


def _said(host: Host, *arguments: str) -> str:
    """What the program printed, run by whoever has the daemon."""
    if not isinstance(host, Rootless):
        done = host.run(*_PROGRAM, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
    with host.program(*_PROGRAM, *arguments) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return printed


@contextmanager
def _serving(overlay: Overlay) -> Iterator[None]:
    bob = overlay.bob.namespace
    with subprocess.Popen(("ip", "netns", "exec", bob, *_PROGRAM, "serve")) as server:
        try:
            wait_for("the server", lambda: ":8080" in overlay.bob.run("ss", "-Hltn").stdout)
            yield
        finally:
            server.kill()


@contextmanager
def _rootless(overlay: Overlay) -> Iterator[Rootless]:
    folder = Path(tempfile.mkdtemp(prefix="kairos-proxy-"))
    rootless = Rootless(overlay.alice, folder)
    try:
        yield rootless
    finally:
        rootless.kill()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
