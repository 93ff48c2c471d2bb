"""The same bundle decided by a real OPA server: a process of this daemon's own, on a Unix socket that only it can open."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kairos.errors import BadMessage
from kairos_node.policy.bundle import Bundle
from kairos_node.policy.engine import PolicyEngine
from kairos_node.policy.wasm import PolicyError

_log = logging.getLogger(__name__)
_START_S = 20.0
_EXPLAIN_S = 5.0  # a person waits for it, no packet does
_END_S = 5.0
# The shell lives as long as OPA does, and ends it when our end of its input closes: however we die, OPA does not stay behind.
_LEASH = 'exec 3<&0; "$@" </dev/null & opa=$!; { read -r _ <&3; kill "$opa"; } & leash=$!; wait "$opa"; kill "$leash"'


class OpaEngine(PolicyEngine):
    """program: OPA 1.x. A decision that takes longer than budget_ms is deny, and so is one while OPA starts anew."""

    def __init__(self, bundle: Bundle, version: int, sha384: bytes, budget_ms: int, program: str = "opa") -> None:
        super().__init__(bundle, version, sha384)
        self._budget_s = budget_ms / 1000
        self.folder = Path(tempfile.mkdtemp(prefix="kairos-opa-"))  # mode 0700
        self._command = _command(self.folder, bundle, program)
        self._connection: _Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()  # of starting and ending
        self._closed = False
        try:
            self._start()
        except BadMessage:
            self.close()
            raise

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._hang_up()
            if self._process is not None:
                _end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def explain(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self._ask("kairos/why/grants", document, _EXPLAIN_S) or []
        return told

    def _evaluate(self, entrypoint: str, document: dict[str, Any]) -> Any:
        return self._ask(entrypoint, document, self._budget_s)

    def _ask(self, entrypoint: str, document: dict[str, Any], seconds: float) -> Any:
        """The value there, None when it is undefined. Raises PolicyError."""
        try:
            if self._connection is None:
                self._connection = _Connection(self.folder / "socket", seconds)
            answer = self._connection.post(f"/v1/data/{entrypoint}", json.dumps({"input": document}), seconds)
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            self._look_after()
            raise PolicyError(f"OPA does not answer: {str(error) or type(error).__name__}") from None
        return answer.get("result") if isinstance(answer, dict) else None

    def _hang_up(self) -> None:
        """An answer that comes too late must not be taken for that of the next question."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _look_after(self) -> None:
        """A server that is gone is started again, beside the event loop; until then all is denied."""
        if self._process is not None and self._process.poll() is not None and not self._turn.locked():
            threading.Thread(target=self._start_again, daemon=True).start()

    def _start_again(self) -> None:
        with contextlib.suppress(BadMessage):
            self._start()

    def _start(self) -> None:
        with self._turn:
            if self._closed or (self._process is not None and self._process.poll() is None):
                return
            if self._process is not None:
                _end(self._process)
            (self.folder / "socket").unlink(missing_ok=True)
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    ("sh", "-c", _LEASH, "sh", *self._command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd=self.folder,
                )
            self._wait_for_answer(self._process)
        _log.info("OPA decides, policy version %d", self.version)

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                contextlib.closing(_Connection(self.folder / "socket", _START_S)) as connection,
            ):
                connection.post("/v1/data/kairos", '{"input": {}}', _START_S)
                return
            time.sleep(0.02)
        _end(process)
        said = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        raise BadMessage(f"OPA does not run this policy: {said[-1] if said else 'it does not answer'}")


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, kept open."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def post(self, path: str, body: str, seconds: float) -> Any:
        """The answer's JSON. Raises OSError or HTTPException: late, refused, or not 200."""
        if self.sock is None:
            self.connect()
        self.sock.settimeout(seconds)
        self.request("POST", path, body, {"Content-Type": "application/json"})
        response = self.getresponse()
        text = response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"status {response.status}")
        try:
            return json.loads(text)
        except ValueError:
            raise http.client.HTTPException("no JSON") from None


def _command(folder: Path, bundle: Bundle, program: str) -> tuple[str, ...]:
    """The bundle's rules and data as files, and what serves them. Raises BadMessage."""
    found = shutil.which(program)
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
        raise BadMessage(f'engine = "opa" needs Open Policy Agent 1.x, and there is no program {program}')
    names = ["data.json"]
    (folder / "data.json").write_bytes(bundle.data)
    for name, text in bundle.rules.items():
        (folder / name).write_text(text)
        names.append(name)
    quiet = ("--skip-version-check", "--log-level", "error", "--shutdown-grace-period", "0")
    return (os.path.realpath(found), "run", "--server", "--addr", f"unix://{folder}/socket", *quiet, *names)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The leash is let go; OPA ends at once."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
