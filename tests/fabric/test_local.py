"""The local fabric as a pair of processes: starts, ends, crashes, and what a person is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric_host import FabricHost, free_ports, running_fabric
from kairos_cli.fabric import local, plan
from kairos_cli.fabric.init import create
from kairos_cli.fabric.local import FabricError, LocalFabric
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.settings import WORKERS
from overlay import wait_for

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    with running_fabric(tmp_path_factory.mktemp("fabric")) as host:
        yield host


def new_operator(folder: Path) -> Operator:
    port = free_ports(HOST)
    return create(folder, "KR1", "kairos.test", f"http://{HOST}:{port}", f"http://{HOST}:{port + 1}")


def health(port: int) -> object:
    with urllib.request.urlopen(f"http://{HOST}:{port}/v1/health", timeout=60) as answer:
        return json.load(answer)["status"]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def await_silence(port: int) -> None:
    wait_for(f"port {port} is closed", lambda: not listens(port))


def dev(operator: Operator) -> subprocess.Popen[str]:
    """`kairos fabric dev`, once it has said that it is ready."""
    command = (sys.executable, "-m", "kairos_cli.main", "fabric", "dev", "--json", "--dir", str(operator.folder))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["url"] == operator.url
    return process


def test_both_workers_answer_and_secrets_are_private(host: FabricHost) -> None:
    fabric = host.fabric
    assert health(fabric.port) == health(fabric.port + 1) == "ok"
    assert fabric.state.stat().st_mode & 0o777 == 0o700
    for worker in WORKERS:
        assert (fabric.state / f"{worker}.plan.json").stat().st_mode & 0o777 == 0o600


def test_a_crash_is_noticed_and_what_was_written_stays(host: FabricHost) -> None:
    fabric = host.fabric
    host.tenant("before")
    os.killpg(fabric._processes["control"].pid, signal.SIGKILL)
    assert fabric.wait() == "control"
    fabric.kill("control")
    assert fabric.most("control"), "written whole, whenever the kill came"
    assert health(fabric.port + 1) == "ok"
    fabric.restart("control")
    assert host.admin("GET", "/before")["tenant"] == "before"
    assert [vni["name"] for vni in host.admin("GET", "/before/vnis")["items"]] == ["office"]


def test_a_stop_and_a_start_go_on(tmp_path: Path) -> None:
    """Migrations run once; ids are not given twice."""
    operator = new_operator(tmp_path / "fabric")
    fabric = LocalFabric(operator, operator.state, HOST, local.address_of(operator.url)[1])
    host = FabricHost(operator, fabric)
    fabric.start()
    host.tenant("first")
    fabric.stop()
    assert not listens(fabric.port)
    assert not listens(fabric.port + 1)
    fabric.start()
    try:
        host.tenant("second")
        vnis = [host.admin("GET", f"/{tenant}/vnis")["items"][0] for tenant in ("first", "second")]
        assert vnis[0]["vni"] != vnis[1]["vni"]
    finally:
        fabric.stop()


def test_the_verb_ends_cleanly_and_takes_its_workers_along(tmp_path: Path) -> None:
    operator = new_operator(tmp_path / "fabric")
    port = local.address_of(operator.url)[1]
    process = dev(operator)
    assert health(port) == "ok"
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    await_silence(port)
    await_silence(port + 1)
    killed = dev(operator)  # and when it cannot say goodbye, they notice
    killed.kill()
    killed.communicate()
    await_silence(port)
    await_silence(port + 1)


def test_a_port_in_use_is_one_line(host: FabricHost, tmp_path: Path) -> None:
    second = LocalFabric(host.operator, tmp_path, HOST, host.fabric.port)
    with pytest.raises(FabricError) as refusal:
        second.start()
    assert str(refusal.value) == (
        f"cannot listen on {HOST} port {host.fabric.port}: Address already in use; is a fabric running? "
        "Others can be named with --host and --port"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("address", "port"), [("192.0.2.1", 18787), ("nowhere.invalid", 18787), (HOST, 65_535)])
def test_an_address_that_is_not_ours_is_one_line(host: FabricHost, tmp_path: Path, address: str, port: int) -> None:
    with pytest.raises(FabricError, match="cannot listen on"):
        LocalFabric(host.operator, tmp_path, address, port).start()


def test_the_cause_is_the_line_that_tells() -> None:
    traceback = (
        "error: service core:user:kairos-fabric: Uncaught Error: PythonError: Traceback (most recent call last):\n"
        '  File "/session/metadata/entry.py", line 9, in <module>\n    from kairos_control import app\n'
        "ImportError: cannot import name 'app'\n\n  at pyodide.asm.mjs:1:568655 in new_error\n"
    )
    wrapped = (
        "MiniflareCoreError [ERR_RUNTIME_FAILURE]: The Workers runtime failed to start.\n    at start (index.js:1)\n"
    )
    assert local._cause(traceback + wrapped) == "ImportError: cannot import name 'app'"
    assert local._cause(json.dumps({"level": "error", "message": traceback}) + "\n" + wrapped).startswith("ImportError")
    assert local._cause(wrapped).startswith("MiniflareCoreError [ERR_RUNTIME_FAILURE]")
    assert local._cause("killed\n") == "killed"
    assert local._cause("") == "it logged nothing"


def test_a_first_start_makes_the_snapshot_and_works_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshot.bin"
    monkeypatch.setattr(plan, "_snapshot_path", lambda root, extensions: snapshot)
    operator = new_operator(tmp_path / "fabric")
    fabric = LocalFabric(operator, operator.state, HOST, local.address_of(operator.url)[1])
    fabric.start()
    try:
        assert health(fabric.port) == "ok"
    finally:
        fabric.stop()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".bin"] == ["snapshot.bin"]
    made = snapshot.stat().st_mtime_ns
    fabric.start()
    fabric.stop()
    assert snapshot.stat().st_mtime_ns >= made


def test_files_that_no_start_used_for_a_day_go(tmp_path: Path) -> None:
    for name, age_s in (("old.zip", 90_000), ("new.zip", 3_600)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    plan._delete_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new.zip"]
