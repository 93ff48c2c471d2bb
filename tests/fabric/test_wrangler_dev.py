"""`wrangler dev` takes the tree as it is. The native Python runtime comes over the network (pyodide-capnp-bin.edgeworker.net) and is in no package
registry, so this runs in a network namespace of its own and asks how far it gets: to the runtime's start, with every binding, and there that one
file is all that is missing. What the Worker answers is asked of the local fabric."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kairos_cli.fabric import workspace
from kairos_cli.fabric.settings import CONFIGURATION, Worker
from kairos_cli.fabric.steps import QUIET

pytestmark = pytest.mark.timeout(300)
BINDINGS: dict[Worker, list[str]] = {
    "control": ["TENANT", "CACHE", "TELEMETRY", "SWEEPS", "DB", "BLOBS", "RELAY"],
    "relay": ["RELAY", "CONTROL"],
}


@pytest.mark.parametrize("worker", ["control", "relay"])
def test_wrangler_dev_starts_the_runtime(worker: Worker, tmp_path: Path) -> None:
    root, node = workspace.prepare(QUIET), workspace.node()
    for name in (*CONFIGURATION.values(), "workers", "python_modules", "kairos"):
        source = root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(root / "node_modules")
    command = f"{node} node_modules/wrangler/bin/wrangler.js dev --config {CONFIGURATION[worker]} --port 8787"
    quiet = {"CI": "true", "WRANGLER_SEND_METRICS": "false", "CLOUDFLARE_CF_FETCH_ENABLED": "false"}
    done = subprocess.run(
        ("unshare", "--net", "sh", "-c", f"ip link set lo up && exec timeout 120 {command}"),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **quiet, "HOME": str(tmp_path), "PATH": f"{Path(node).parent}:{os.environ['PATH']}"},
    )
    said = done.stdout + done.stderr
    for binding in BINDINGS[worker]:
        assert f"env.{binding} " in said, said[-3000:]
    assert "Starting local server" in said, said[-3000:]
    assert "pyodide-capnp-bin.edgeworker.net/pyodide_314" in said, said[-3000:]
