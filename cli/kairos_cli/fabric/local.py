"""The fabric on this machine: both Workers in real workerd, a process each, state on disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kairos.errors import KairosError
from kairos_cli.fabric import workspace
from kairos_cli.fabric.faults import Fault, FaultLog
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.plan import write_plan
from kairos_cli.fabric.settings import WORKERS, Worker
from kairos_cli.fabric.steps import QUIET, Steps

START_S = 300.0  # for a slow machine
_STOP_S = 10.0
_PORTS_S = 3.0
_FAULTS_S = 0.5  # how soon a fault is reported
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b[^:]*: ")


class FabricError(KairosError):
    """The local fabric could not start, or died; the text says what to do."""


class LocalFabric:
    """Both processes. `state` outlives them: a second start goes on where the first ended."""

    def __init__(self, operator: Operator, state: Path, host: str, port: int, meter: bool = False) -> None:
        """meter: the Workers' calls of the platform are counted (workers/local/meter.mjs)."""
        self.operator = operator
        self._meter = meter
        self.state = state
        self.host, self.port = host, port
        self._processes: dict[Worker, subprocess.Popen[bytes]] = {}
        self._inspectors: dict[Worker, str] = {}
        self._faults = FaultLog(state)

    def start(self, steps: Steps = QUIET) -> None:
        """Starts both and returns when both answer. Raises FabricError, LimitError."""
        self._require_ports()
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        plans: dict[Worker, Path] = {worker: self._plan(worker) for worker in WORKERS}
        _ensure_snapshot(plans["control"], steps)
        self._faults.clear()
        try:
            for worker, plan in plans.items():
                self._spawn(worker, plan)
            for worker in WORKERS:
                with steps.step(f"start the {worker} Worker"):
                    self._await_ready(worker)
        except FabricError:
            self.stop()
            raise

    def restart(self, worker: Worker) -> None:
        """Starts one that was killed."""
        self._spawn(worker, self._plan(worker))
        self._await_ready(worker)

    def _require_ports(self) -> None:
        """Raises FabricError if a port is taken: workerd's own message has twenty lines. Waits a moment for a fabric
        that is ending."""
        for port in (self.port, self.port + 1):
            if reason := _await_port(self.host, port):
                raise FabricError(
                    f"cannot listen on {self.host} port {port}: {reason}; is a fabric running? "
                    "Others can be named with --host and --port"
                )

    def _spawn(self, worker: Worker, plan: Path) -> None:
        log = self.state / f"{worker}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                (*_node(), "serve.mjs", str(plan)),
                cwd=workspace.folder() / "workers/local",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                env=os.environ | ({"MINIFLARE_WORKERD_V8_FLAGS": "--expose-gc"} if self._meter else {}),
            )
        self._processes[worker] = process

    def stop(self) -> None:
        """Ends both; their ports are free when it returns."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for worker in list(self._processes):
            self._reap(worker)
            _await_port(self.host, self._port(worker))

    def kill(self, worker: Worker) -> None:
        """Kills the process group of one Worker, with its workerd, as a crash would. Its port is free when this
        returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[worker].pid, signal.SIGKILL)
        self._reap(worker)
        _await_port(self.host, self._port(worker))

    def faults(self) -> list[Fault]:
        """Limits that were exceeded, and exceptions that nobody caught, since the start."""
        return self._faults.all()

    def most(self, worker: Worker) -> dict[str, dict[str, Any]]:
        """The most D1 queries and subrequests of any one invocation, with its place."""
        path = self.state / f"{worker}.most.json"
        most: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        return most

    def wait(self, on_fault: Callable[[Fault], None] = lambda fault: None) -> Worker:
        """Returns the Worker that ended first. `on_fault` is called with each fault meanwhile."""
        handles = {os.pidfd_open(process.pid): worker for worker, process in self._processes.items()}
        try:
            while True:
                ended = select.select(list(handles), [], [], _FAULTS_S)[0]
                for fault in self._faults.new():
                    on_fault(fault)
                if ended:
                    return handles[ended[0]]
        finally:
            for handle in handles:
                os.close(handle)

    def inspector(self, worker: Worker) -> str:
        """The URL of V8's inspector; empty without the meter."""
        return self._inspectors[worker]

    def _port(self, worker: Worker) -> int:
        return self.port + (worker == "relay")

    def group(self, worker: Worker) -> int:
        """The process group of one, workerd in it."""
        return self._processes[worker].pid

    def log(self, worker: Worker) -> str:
        return (self.state / f"{worker}.log").read_text(errors="replace")

    def _await_ready(self, worker: Worker) -> None:
        process, log = self._processes[worker], self.state / f"{worker}.log"
        assert process.stdout is not None
        deadline = time.monotonic() + START_S
        while (left := deadline - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                line = process.stdout.readline()
                if line.startswith(b'{"ready"'):
                    self._inspectors[worker] = json.loads(line)["inspector"]
                    return
                if not line:
                    break
        raise FabricError(f"the {worker} Worker did not start: {_cause(self.log(worker))}; the whole log is {log}")

    def _reap(self, worker: Worker) -> None:
        process = self._processes.pop(worker)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _plan(self, worker: Worker) -> Path:
        return write_plan(workspace.folder(), self.operator, worker, self.state, self.host, self.port, self._meter)


def address_of(url: str) -> tuple[str, int]:
    """Where to listen for a fabric whose URL is this."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)


def _await_port(host: str, port: int) -> str:
    """Why nobody can listen there even after a while. A killed workerd holds its port until the kernel has torn down
    its memory, which is after the process that started it has ended."""
    deadline = time.monotonic() + _PORTS_S
    while (reason := _obstacle(host, port)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return reason


def _obstacle(host: str, port: int) -> str:
    """Why nobody can listen there; empty when one can."""
    if not 0 < port < 65_536:
        return "no such port"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        number = error.errno or 0
        return os.strerror(number) if number > 0 else "no such address"  # the resolver's numbers are negative
    return ""


def _ensure_snapshot(plan: Path, steps: Steps) -> None:
    snapshot = Path(json.loads(plan.read_text())["snapshot"])
    if snapshot.exists():
        snapshot.touch()
        return
    with steps.step("make a snapshot of the Python interpreter (once)"):
        try:
            done = subprocess.run(
                (*_node(), "serve.mjs", str(plan), "snapshot"),
                cwd=workspace.folder() / "workers/local",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FabricError(f"the snapshot of the Workers' interpreter was not made within {START_S:.0f} s") from None
        if done.returncode or not snapshot.exists():
            raise FabricError(f"the snapshot of the Workers' interpreter could not be made: {_cause(done.stderr)}")


def _node() -> tuple[str, ...]:
    return (workspace.node(), "--no-warnings")


def _cause(log: str) -> str:
    """The line of a log that names the cause: the last line of a traceback, Python's rather than the runtime's
    around it."""
    lines = [part.strip() for line in log.splitlines() for part in _message(line).splitlines()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    python = [line for line in errors if not line.startswith(("Miniflare", "Python", "Error:"))]
    return (python or errors or [line for line in lines if line] or ["it logged nothing"])[-1][:300]


def _message(line: str) -> str:
    """workerd logs JSON when it has no one to hand its log to."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
