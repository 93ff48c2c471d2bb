"""A Worker with nothing bound: the control Worker's bundle under another main module, asked one question in workerd."""

from __future__ import annotations

import asyncio
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import aiohttp

from fabric_host import FabricHost
from kairos_cli.fabric import workspace
from kairos_cli.fabric.local import _node

ENTRY = """
import json
from workers import Response, WorkerEntrypoint
from {module} import {function}

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(json.dumps({call}))
"""


def answer_of(host: FabricHost, folder: Path, function: str, modules: list[Path], awaited: bool = False) -> Any:
    """What `function` of the first of `modules` returns in workerd. The result is JSON; folder: for bundle and state."""
    call = f"await {function}()" if awaited else f"{function}()"
    bundle = folder / "bundle.zip"
    plan = json.loads((host.fabric.state / "control.plan.json").read_text())
    bundle.write_bytes(Path(plan["bundle"]).read_bytes())
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("bare_entry.py", ENTRY.format(module=modules[0].stem, function=function, call=call))
        for module in modules:
            archive.write(module, module.name)
    plan |= {"main": "bare_entry", "bundle": str(bundle), "classes": [], "bindings": {}, "crons": []}
    plan |= {"migrations": None, "port": 0, "state": str(folder / "state")}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = (*_node(), "serve.mjs", str(folder / "plan.json"))
    with subprocess.Popen(
        command, cwd=workspace.folder() / "workers/local", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            return asyncio.run(_get(json.loads(process.stdout.readline())["ready"]))
        finally:
            process.terminate()


async def _get(url: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return json.loads(await answer.text())
