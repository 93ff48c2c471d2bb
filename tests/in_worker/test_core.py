"""The pure core runs inside workerd and says there what it says here: same text, same bytes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import zipfile
from pathlib import Path

import aiohttp
import pytest

from core_probe import report
from fabric_host import FabricHost
from kairos_cli.fabric import workspace
from kairos_cli.fabric.local import _node

PROBE = Path(__file__).parents[1] / "core_probe.py"
ENTRY = """
import json
from core_probe import report
from workers import Response, WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(json.dumps(report()))
"""


@pytest.fixture
def worker(host: FabricHost, tmp_path: Path) -> Path:
    """The plan of the control Worker, with another main module and nothing bound."""
    plan = json.loads((host.fabric.state / "control.plan.json").read_text())
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(Path(plan["bundle"]).read_bytes())
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("core_entry.py", ENTRY)
        archive.write(PROBE, PROBE.name)
    plan |= {"main": "core_entry", "bundle": str(bundle), "classes": [], "bindings": {}, "crons": []}
    plan |= {"migrations": None, "port": 0, "state": str(tmp_path / "state")}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_it_says_the_same_in_workerd(worker: Path) -> None:
    async def ask(url: str) -> object:
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            return json.loads(await answer.text())

    command = (*_node(), "serve.mjs", str(worker))
    with subprocess.Popen(
        command, cwd=workspace.folder() / "workers/local", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["ready"]
            assert asyncio.run(ask(url)) == report()
        finally:
            process.terminate()
