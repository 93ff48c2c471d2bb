"""The shipped units: the daemons' own code does what it promises with what a unit leaves it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from unit_sandbox import UNITS, allowed_calls, missing, run_under, settings

sandboxed = pytest.mark.skipif(missing() != "", reason=f"a unit's sandbox needs {missing()}")
HARDENED = {
    "LimitCORE": ["0"],
    "MemorySwapMax": ["0"],
    "NoNewPrivileges": ["yes"],
    "RestrictNamespaces": ["yes"],
    "ProtectKernelModules": ["yes"],
    "SystemCallArchitectures": ["native"],
}
USER = 1000


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(unit: str) -> None:
    said = settings(unit)
    assert {key: said.get(key) for key in HARDENED} == HARDENED
    assert "@system-service" in said["SystemCallFilter"]
    assert set(said["AmbientCapabilities"]) <= set(said["CapabilityBoundingSet"])
    assert not {"CAP_SYS_ADMIN", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SYS_MODULE"} & set(said["CapabilityBoundingSet"])


@sandboxed
@pytest.mark.parametrize("unit", UNITS)
def test_the_sandbox_of_these_tests_is_one(unit: str) -> None:
    """Otherwise the tests below would show nothing."""
    tried = """
import ctypes, resource
status = dict(line.split(":\\t") for line in open("/proc/self/status") if ":\\t" in line)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) == -1 and ctypes.get_errno() == 1
assert libc.reboot(0) == -1
print(int(status["CapBnd"], 16) == int(status["CapEff"], 16), resource.getrlimit(resource.RLIMIT_CORE), status["Seccomp"].strip())
"""
    assert run_under(unit, tried).stdout == "True (0, 0) 2\n"
    assert "mount" not in allowed_calls(settings(unit)["SystemCallFilter"])


@sandboxed
def test_programs_of_other_users_are_seen() -> None:
    """Policy by program on a host of several users, as the agent's unit runs it."""
    client = """
import signal, socket, sys
opened = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(opened.getsockname()[1], flush=True)
signal.pause()
"""
    look = """
import sys
from ipaddress import ip_address
from kairos_node.application import Applications
here = ip_address("127.0.0.1")
found = Applications().of(6, (here, int(sys.argv[1])), (here, int(sys.argv[2])))
print(found.path, found.uid, len(found.sha256))
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with subprocess.Popen(
            ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "/usr/bin/python3", "-c", client, port),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            source = process.stdout.readline().strip()
            seen = run_under("agent", look, source, port)
            process.kill()
    assert seen.stdout.split() == [str(Path("/usr/bin/python3").resolve()), str(USER), "64"], seen.stderr


@sandboxed
def test_a_device_reports_what_it_reports_outside_of_the_unit() -> None:
    look = "from kairos_agent.posture import collect; print(sorted(collect().items()))"
    outside = subprocess.run(
        (sys.executable, "-c", look),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "time_synced" in outside.stdout
    inside = run_under("agent", look)
    assert inside.stdout == outside.stdout, inside.stderr


@sandboxed
def test_a_slow_posture_check_is_ended() -> None:
    script = """
import sys, time
from kairos_agent.checks import Check, run_checks
began = time.monotonic()
slow = ["sh", "-c", "sleep 300 & echo $! > /dev/null; sleep 300"]
print(run_checks([Check("slow", slow, "bool", 0.2), Check("who", ["id", "-u"], "number"), Check("yes", ["true"])]))
print(time.monotonic() - began < 10)
"""
    done = run_under("agent", script)
    assert done.stdout.splitlines() == ["{'check.who': 65534, 'check.yes': True}", "True"], done.stderr
    running = subprocess.run(
        ("pgrep", "-u", "nobody", "-x", "sleep", "-a"), capture_output=True, text=True, check=False
    )
    assert "sleep 300" not in running.stdout


@sandboxed
@pytest.mark.parametrize("unit", UNITS)
def test_the_daemons_parts_run(unit: str, tmp_path: Path) -> None:
    """A key, TLS, the data plane with a TUN, a policy engine: whatever a filter of system calls could stop."""
    script = """
import asyncio, fcntl, os, sys
from pathlib import Path
from kairos.crypto.suites import KR1
from kairos_dataplane import load
from kairos_node.crypto import provider_named
from kairos_node.netlink import AGENT, open_interfaces
from kairos_node.state import NodeState, new_seed
import wasmtime

key = provider_named("cryptography").signing_key(KR1, new_seed())
key.sign(b"message", b"context")
state = NodeState(Path(sys.argv[1]))
dataplane = load("auto", "auto")

async def main():
    async with open_interfaces(AGENT, "ep-a"):
        pass

with state.locked():
    asyncio.run(main())
store = wasmtime.Store()
module = wasmtime.Module(store.engine, '(module (func (export "run") (result i32) i32.const 7))')
print(wasmtime.Instance(store, module, []).exports(store)["run"](store), dataplane.description)
dataplane.close()
"""
    done = run_under(unit, script, str(tmp_path / "state"), apart=True)
    assert done.stdout.startswith("7 C"), (done.stdout, done.stderr)
