"""Measures the CPU time of importing each Worker into an interpreter that is already running: the part of a start that
is ours.

Cloudflare gives a Worker 1 s of CPU to start. Here workerd starts Python without a snapshot and imports the Worker on
request, so the difference of workerd's CPU time before and after is the import and nothing else. The figure is of this
machine.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from kairos_cli.fabric import workspace
from kairos_cli.fabric.plan import code_plan
from kairos_cli.fabric.settings import WORKERS, Worker
from kairos_cli.fabric.wrangler import DeployError

_START_S = 300.0


def import_cpu_ms(root: Path) -> dict[Worker, float]:
    """Milliseconds of CPU of each Worker's import."""
    return {worker: 1000 * _import_cpu_s(root, worker) for worker in WORKERS}


def _import_cpu_s(root: Path, worker: Worker) -> float:
    with tempfile.TemporaryDirectory(prefix="kairos-import-") as name:
        folder = Path(name)
        nothing: dict[str, Any] = {
            "bindings": {},
            "crons": [],
            "migrations": [],
            "host": "127.0.0.1",
            "port": 0,
            "snapshot": "",
            "classes": [],
        }
        reports = {each: str(folder / each) for each in ("state", "faults", "most")}
        path = folder / "plan.json"
        path.write_text(json.dumps(code_plan(root, worker) | nothing | reports | {"importOnRequest": True}))
        process = subprocess.Popen(
            (workspace.node(), "--no-warnings", "serve.mjs", str(path)),
            cwd=root / "workers/local",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            if not select.select([process.stdout], [], [], _START_S)[0] or not (line := process.stdout.readline()):
                raise DeployError(f"the {worker} Worker does not start without a snapshot")
            before = _group_cpu_s(process.pid)
            with urllib.request.urlopen(json.loads(line)["ready"], timeout=_START_S) as answer:
                answer.read()
            return _group_cpu_s(process.pid) - before
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def _group_cpu_s(group: int) -> float:
    """User and system time of the workerd in a process group (proc(5): stat, fields 5, 14 and 15)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        name, fields = text[text.index("(") + 1 : text.rindex(")")], text.rpartition(")")[2].split()
        if int(fields[2]) == group and name == "workerd":
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
