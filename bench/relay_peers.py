"""What the relay is measured against: a bare handler in the same runtime, and Tailscale's DERP server.

Go builds DERP at the first run, at the version that bench/programs/derp/go.mod names. It raises Absent if it cannot be had.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.link import Absent
from bench.processes import process_cpu_seconds
from fabric_host import free_ports
from kairos_cli.fabric import workspace

_PROGRAMS = Path(__file__).parent / "programs"
_DERP = Path(__file__).parents[1] / ".tools/bin/derp"
_LOOPBACK = "127.0.0.1"


@contextmanager
def bare_relay(plan: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """bench/programs/bare_relay.py in a workerd of its own: its URL and process group.

    plan: the product's relay as it runs (kairos_cli/fabric/local.py), for the same interpreter, snapshot and host; folder:
    where its own plan, bundle and state go.
    """
    folder.mkdir()
    bare = json.loads(plan.read_text()) | {"main": "bare_relay", "port": free_ports(_LOOPBACK), "state": str(folder)}
    bundle = folder / "bundle.zip"
    shutil.copy(bare["bundle"], bundle)
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.write(_PROGRAMS / "bare_relay.py", "bare_relay.py")
    own_plan = folder / "plan.json"
    own_plan.write_text(json.dumps(bare | {"bundle": str(bundle)}))
    command = (workspace.node(), "--no-warnings", "serve.mjs", str(own_plan))
    with _piped(*command, cwd=workspace.folder() / "workers/local") as process:
        _line(process)
        yield f"http://{_LOOPBACK}:{bare['port']}", process.pid


class Derp:
    """Tailscale's DERP server, and two clients that keep it busy, each end a process."""

    def __init__(self, server: subprocess.Popen[str], clients: subprocess.Popen[str]) -> None:
        self._server, self._clients = server, clients

    def measure(self, seconds: float) -> tuple[float, float]:
        """(packets a second, CPU seconds of the server a packet)."""
        began, packets, cpu = time.monotonic(), self._arrived(), process_cpu_seconds(self._server.pid)
        time.sleep(seconds)
        took, spent = time.monotonic() - began, process_cpu_seconds(self._server.pid) - cpu
        packets = self._arrived() - packets
        return packets / took, spent / packets

    def _arrived(self) -> int:
        assert self._clients.stdin is not None
        self._clients.stdin.write("\n")
        self._clients.stdin.flush()
        return int(_line(self._clients))


@contextmanager
def derp(size: int) -> Iterator[Derp]:
    """Packets of `size` bytes go from one client to the other while it is open. Raises Absent."""
    _build()
    with _piped(str(_DERP), "server") as server, _piped(str(_DERP), "clients", _line(server), str(size)) as clients:
        yield Derp(server, clients)


def _build() -> None:
    if _DERP.exists():
        return
    if shutil.which("go") is None:
        raise Absent("go builds DERP, which is not here: apt install golang-go")
    command = ("go", "build", "-trimpath", "-o", str(_DERP), ".")
    done = subprocess.run(command, cwd=_PROGRAMS / "derp", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Absent(f"`go build` of DERP failed: {(done.stderr.strip().splitlines() or ['it gave no reason'])[-1]}")


@contextmanager
def _piped(*command: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that ends when its standard input is closed."""
    process = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)


def _line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints. Raises RuntimeError if it has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended")
    return line.strip()
