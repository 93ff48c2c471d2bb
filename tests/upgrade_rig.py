"""A fabric and its nodes on the code of an earlier revision, whose Workers and nodes can be replaced by today's one by one.

fabric .1 ---- bridge ---- gateway, alice, bob, ... in a network namespace each, and a crowd beside the fabric
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from revisions import ROOT, EarlierFabric, Tree

from effort import effort
from fabric_host import FabricHost, free_ports, running_fabric
from kairos.api.problem import ProblemError
from kairos.audit.head import SignedHead
from kairos_cli.admin import AdminClient
from kairos_cli.audit_export import as_line
from kairos_cli.fabric.local import LocalFabric
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.settings import Worker
from overlay import GRANTS, TENANT, Host, Overlay, wait_for, wired

TODAY = Tree(ROOT)
SESSION_LIFE_S = effort(120, nightly=180)
WAIT_S = 90.0
_CROWD_WAIT_S = 240.0
_JOIN_AT_ONCE = 2
_ANSWERED = re.compile(r"icmp_seq=(\d+) ttl")


class Ping:
    """Ten echo requests a second from a host to an address, until it is stopped."""

    def __init__(self, host: Host, address: str, file: Path) -> None:
        self._file = file
        self._name = f"{host.name} to {address}"
        with file.open("wb") as output:
            command = ("ip", "netns", "exec", host.namespace, "ping", "-n", "-i", "0.1", address)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    @property
    def answered(self) -> list[int]:
        """Numbers of the requests that were answered, in the order of the answers."""
        return [int(number) for number in _ANSWERED.findall(self._file.read_text())]

    @property
    def lost(self) -> list[int]:
        """Requests that were not answered although a later one was."""
        answered = set(self.answered)
        return [number for number in range(min(answered), max(answered)) if number not in answered]

    def await_answer(self) -> None:
        """To a request that is sent from now on, or was just sent."""
        last = max(self.answered, default=0)
        wait_for(f"an answer, {self._name}", lambda: max(self.answered, default=0) > last + 1, WAIT_S)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Crowd:
    """The process of `crowd.py`."""

    def __init__(self, tree: Tree, folder: Path, count: int, token: str) -> None:
        self.count = count
        self._process = subprocess.Popen(
            (sys.executable, "tests/crowd.py", str(folder), str(count), token),
            cwd=tree.root,
            env=os.environ | tree.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def asked(self, command: str) -> dict[str, Any]:
        """`status`, or `renew`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def await_connected(self) -> dict[str, Any]:
        """Every member has its events socket and a session."""

        def ready() -> dict[str, Any]:
            status = self.asked("status")
            return status if status["connected"] == self.count and all(status["sessions"]) else {}

        status: dict[str, Any] = wait_for("the crowd", ready, _CROWD_WAIT_S)
        return status

    def finish(self) -> dict[str, Any]:
        """Ends it, once the fabric has taken all its events."""
        said, _ = self._process.communicate(timeout=WAIT_S)
        final: dict[str, Any] = json.loads(said.splitlines()[-1])
        return final

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Upgrade:
    """What the tests do to it."""

    def __init__(self, folder: Path, earlier: Tree, overlay: Overlay, before: EarlierFabric, crowd: Crowd) -> None:
        self.folder, self.earlier, self.overlay, self.crowd = folder, earlier, overlay, crowd
        self.fabric = overlay.fabric
        self.admin = AdminClient(self.fabric.operator)
        self.pings: dict[str, Ping] = {}
        self._before = before

    def host(self, name: str) -> Host:
        return next(host for host in (*self.overlay.hosts, *self.overlay.others) if host.name == name)

    def replace(self, worker: Worker) -> None:
        """Kills one Worker of the earlier revision and starts today's on what it left."""
        self._before.kill(worker)
        self.fabric.fabric.restart(worker)

    def join(self, name: str, code: Tree, path: str = "auto") -> Host:
        """An endpoint that enrolls and runs with this code, and has a tunnel when this returns."""
        host = enrolled(self.host(name), self.fabric, code, path)
        host.start()
        host.await_tunnel()
        return host

    def await_traffic(self, name: str, to: str = "gateway") -> str:
        """Until `to` answers. Returns its address."""
        address = self.overlay.address_of(self.host(to))
        wait_for(f"traffic, {name} to {to}", lambda: self.host(name).reaches(address), WAIT_S)
        return address

    def await_direct(self, name: str) -> None:
        wait_for(f"the direct path of {name}", lambda: self.host(name).tunnel().get("path") == "direct", WAIT_S)

    def await_policy(self, name: str, version: int) -> None:
        wait_for(f"policy at {name}", lambda: self.host(name).status().get("policy_version") == version, WAIT_S)

    def ping(self, name: str, to: str) -> None:
        """Begins when the first request is answered."""
        address = self.await_traffic(name, to)
        self.pings[name] = Ping(self.host(name), address, self.folder / f"{name}.ping")
        self.pings[name].await_answer()

    def _head(self) -> SignedHead | None:
        """None: nothing is sealed yet."""
        try:
            return self.admin.get(f"/v1/tenants/{TENANT}/audit/head", SignedHead)
        except ProblemError as error:
            if error.problem.status != 404:
                raise
            return None

    def keep_head(self) -> Path:
        """The newest head of the audit log, as an auditor keeps it."""
        head: SignedHead = wait_for("the first head", self._head, WAIT_S)
        path = self.folder / f"head-{head.size}.json"
        path.write_bytes(as_line(head))
        return path


def enrolled(host: Host, fabric: FabricHost, code: Tree, path: str = "auto") -> Host:
    """With that code's own command, and to run on it."""
    host.environment = code.environment
    host.config.write_text("" if host.role == "gateway" else f'path = "{path}"\n')
    token = str(fabric.token(TENANT, host.role, tags=["staff"]))
    state = str(host.state.directory)
    code.python("-m", "kairos_cli.main", host.service, "enroll", token, "--state", state, "--hostname", host.name)
    host.node = _node_of(host, fabric)
    return host


def _node_of(host: Host, fabric: FabricHost) -> str:
    return next(str(each["node"]) for each in _devices(fabric) if each["name"] == host.name)


def _devices(fabric: FabricHost) -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = fabric.admin("GET", f"/{TENANT}/devices?limit=1000")["items"]
    return devices


def _approve_first(fabric: FabricHost) -> bool:
    """The gateway that is held."""
    held = [each["node"] for each in _devices(fabric) if each["status"] == "held"]
    for node in held:
        fabric.admin("POST", f"/{TENANT}/devices/{node}/approve", {})
    return bool(held)


@contextmanager
def before_upgrade(
    folder: Path, earlier: Tree, endpoints: dict[str, str], later: tuple[str, ...], crowd: int
) -> Iterator[Upgrade]:
    """All on the earlier code: the gateway, the endpoints with the path that each is to take, and the crowd; `later` have not
    enrolled."""
    with running_fabric(folder / "ready"):
        pass  # what today's Workers need once on a machine is there from now on: a replacement is to be quick
    shutil.copy(ROOT / "tests/crowd.py", earlier.root / "tests")
    others = tuple(name for name in (*endpoints, *later) if name not in ("alice", "bob"))
    with wired(others) as (names, address, bridge):
        port = free_ports(address)
        operator = _made(earlier, folder / "fabric", address, port)
        before = EarlierFabric(earlier, operator.folder, address, port)
        fabric = FabricHost(operator, LocalFabric(operator, operator.state, address, port))
        hosts = [
            Host(name, names[name], folder, "gateway" if name == "gateway" else "endpoint")
            for name in names
            if name != "web"
        ]
        overlay = Overlay(folder, fabric, bridge, hosts, names)
        running: list[Crowd] = []
        try:
            fabric.tenant(TENANT)
            _push_policy(earlier, folder)
            _start_gateway(overlay.gateway, fabric, earlier)
            token = str(fabric.token(TENANT, "endpoint", uses=crowd))
            running.append(Crowd(earlier, folder / "crowd", crowd, token))
            running[0].await_connected()
            upgrade = Upgrade(folder, earlier, overlay, before, running[0])
            with ThreadPoolExecutor(_JOIN_AT_ONCE) as pool:
                list(pool.map(lambda name: upgrade.join(name, earlier, endpoints[name]), endpoints))
            yield upgrade
            for ping in upgrade.pings.values():
                ping.stop()
        finally:
            overlay.down()
            for each in running:
                each.kill()
            fabric.fabric.stop()
            before.stop()


def _made(code: Tree, folder: Path, address: str, port: int) -> Operator:
    where = ("--url", f"http://{address}:{port}", "--relay-url", f"http://{address}:{port + 1}", "--dir", str(folder))
    code.python("-m", "kairos_cli.main", "fabric", "init", *where, "--session-life", f"{SESSION_LIFE_S}s")
    return Operator.load(folder)


def _start_gateway(gateway: Host, fabric: FabricHost, code: Tree) -> None:
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(enrolled, gateway, fabric, code)
        wait_for("the gateway's request", lambda: joining.done() or _approve_first(fabric), WAIT_S)
        joining.result()
    gateway.start()
    wait_for("the gateway", lambda: gateway.status().get("policy_version"), WAIT_S)


def _push_policy(code: Tree, folder: Path) -> None:
    grants = folder / "grants.json"
    grants.write_text(json.dumps(GRANTS))
    where = ("--tenant", TENANT, "--dir", str(folder / "fabric"))
    code.python("-m", "kairos_cli.main", "policy", "push", "--data", str(grants), *where)
