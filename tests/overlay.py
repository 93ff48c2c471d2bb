"""An overlay for tests: a real fabric, and hosts out of network namespaces with real daemons on them.

    fabric .1 ---- bridge in our own namespace ---- gateway .2 ---- web 192.168.60.10
                              |         |
                         alice .3    bob .4

Names and addresses carry our process id, so that two runs do not meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabric_host import FabricHost, running_fabric
from kairos.constants import SESSION_LIFE_S
from kairos.errors import Refused
from kairos_node.crypto import provider_named
from kairos_node.enrollment import enroll
from kairos_node.local_api import ask
from kairos_node.state import NodeState

TENANT = "acme"
ROOT = Path(__file__).parents[1]
WEB, WEB6 = "192.168.60.10", "fd60::10"
WAIT_S = 60.0  # for what must happen, on a slow machine too
_overlays = itertools.count()
GRANTS = {
    "admission": [
        {"id": "gateways", "roles": ["gateway"], "outcome": "hold", "reason": "the operator decides"},
        {"id": "endpoints", "roles": ["endpoint"], "outcome": "allow", "reason": "the operator made the token"},
    ],
    "deny": [{"id": "no-telnet", "from": ["*"], "to": ["*"], "ports": ["tcp/23"], "reason": "telnet is forbidden"}],
    "allow": [
        {"id": "ping", "from": ["*"], "to": ["*"], "ports": ["icmp"], "reason": "echo"},
        {"id": "web", "from": ["tag:staff"], "to": ["*"], "ports": ["tcp/8080"], "reason": "the web server"},
    ],
}


def sh(command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, check=check, capture_output=True, text=True, timeout=60)


def wait_for(what: str, ready: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Polls until `ready` gives something true; fails with `what` otherwise."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


class Host:
    """A namespace with the state of one node and, while it runs, its daemon."""

    def __init__(self, name: str, namespace: str, folder: Path, role: str) -> None:
        self.name, self.namespace, self.role = name, namespace, role
        self.service = "gateway" if role == "gateway" else "agent"
        self.state = NodeState(folder / name)
        self.launcher: tuple[str, ...] = ("-m", "kairos_cli.main")
        self.environment: dict[str, str] = {}
        self.config = folder / f"{name}.toml"
        self.config.write_text("")
        self.node = ""
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on this host, to its end."""
        return subprocess.run(
            ("ip", "netns", "exec", self.namespace, *arguments), capture_output=True, text=True, timeout=60, check=False
        )

    def daemon(self) -> tuple[str, ...]:
        """The command of its daemon."""
        command = (sys.executable, *self.launcher, self.service, "run", "--state", str(self.state.directory))
        return (*command, "--config", str(self.config))

    def start(self) -> None:
        process = subprocess.Popen(
            ("ip", "netns", "exec", self.namespace, *self.daemon()),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={"OQS_INSTALL_PATH": str(ROOT / ".tools/liboqs"), **os.environ, **self.environment},
        )
        self.lines = []
        self._process = process
        threading.Thread(target=self._read, args=(process, self.lines), daemon=True).start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        """What a crash looks like."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def await_line(self, text: str) -> None:
        """Returns as soon as the daemon has logged `text`."""
        with self._news:
            if not self._news.wait_for(lambda: any(text in line for line in self.lines), WAIT_S):
                raise AssertionError(f"{self.name} never said {text!r}:\n" + "\n".join(self.lines[-20:]))

    def status(self) -> dict[str, Any]:
        """Empty while the daemon does not answer."""
        try:
            answer: dict[str, Any] = ask(self.state.socket, "status")
        except Refused:
            return {}
        return answer

    def tunnel(self) -> dict[str, Any]:
        tunnels = [each for each in self.status().get("tunnels", ()) if each["state"] == "established"]
        return tunnels[0] if tunnels else {}

    def await_tunnel(self) -> dict[str, Any]:
        try:
            tunnel: dict[str, Any] = wait_for(f"tunnel of {self.name}", self.tunnel, 2 * WAIT_S)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self.lines[-30:]])) from None
        return tunnel

    def tell(self, verb: str, **fields: Any) -> Any:
        return ask(self.state.socket, verb, **fields)

    def reaches(self, address: str) -> bool:
        return self.run("ping", "-c1", "-W2", address).returncode == 0

    def traces(self) -> str:
        """What a daemon makes on a host and must not leave: TUNs, rules, tables."""
        shown = [self.run("ip", "-o", "link").stdout, self.run("nft", "list", "ruleset").stdout]
        shown += [self.run("ip", family, "rule").stdout for family in ("-4", "-6")]
        return "\n".join(line for text in shown for line in text.splitlines() if "kairos" in line or "proto" in line)

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        status = self._process.wait(15)
        self._process = None
        return status

    def _read(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._news:
                lines.append(line.rstrip())
                self._news.notify_all()
        process.stderr.close()


class Overlay:
    """gateway, alice, bob and the others are enrolled; nothing runs but the fabric. bridge: the interface between them;
    places: network namespaces by name."""

    def __init__(
        self, folder: Path, fabric: FabricHost, bridge: str, hosts: list[Host], places: dict[str, str]
    ) -> None:
        self.folder, self.fabric, self.bridge, self.places = folder, fabric, bridge, places
        self.gateway, self.alice, self.bob, *self.others = hosts

    @property
    def hosts(self) -> tuple[Host, Host, Host]:
        return self.gateway, self.alice, self.bob

    def address_of(self, host: Host) -> str:
        network = host.state.network
        assert network is not None
        return next(lease.addresses[0].split("/")[0] for lease in network.leases if lease.node == host.node)

    def up(self, *hosts: Host) -> None:
        """Starts them and waits for their tunnels."""
        for host in hosts:
            host.start()
        for host in hosts:
            if host.role == "endpoint":
                host.await_tunnel()

    def down(self) -> None:
        for host in (*self.hosts, *self.others):
            host.kill()

    def push_policy(self, grants: dict[str, Any], tenant: str = TENANT) -> None:
        path = self.folder / "grants.json"
        path.write_text(json.dumps(grants))
        operator = self.folder / "fabric"
        sh(f"{sys.executable} -m kairos_cli.main policy push --data {path} --tenant {tenant} --dir {operator}")


@contextmanager
def running_overlay(
    folder: Path,
    suite: str = "KR1",
    providers: tuple[str, str, str] | None = None,
    others: tuple[str, ...] = (),
    session_life_s: int = SESSION_LIFE_S,
    bare: tuple[str, ...] = (),
) -> Iterator[Overlay]:
    """providers: of gateway, alice and bob; others: names of more endpoints, and of more gateways where they begin so; bare: of
    places on the network with nothing in them."""
    with (
        wired((*others, *bare)) as (names, address, bridge),
        running_fabric(folder / "fabric", suite, address, session_life_s) as fabric,
    ):
        hosts = [
            Host(name, names[name], folder, "gateway" if name.startswith("gateway") else "endpoint") for name in names
        ]
        hosts = [host for host in hosts if host.name not in ("web", *bare)]
        overlay = Overlay(folder, fabric, bridge, hosts, names)
        for host, provider in zip(hosts, providers or (), strict=False):
            host.config.write_text(f'provider = "{provider}"\n')
        fabric.tenant(TENANT)
        overlay.push_policy(GRANTS)
        gateway = asyncio.run(fabric.first_gateway(TENANT, hosts[0].state, provider_named("cryptography")))
        hosts[0].node = gateway.node
        fabric.admin(
            "POST",
            f"/{TENANT}/vnis",
            {
                "name": "lan",
                "prefixes": ["10.8.0.0/24", "fd08::/64"],
                "routes": [{"prefix": prefix, "via": gateway.node} for prefix in ("192.168.60.0/24", "fd60::/64")],
            },
        )
        hosts[0].start()
        try:
            wait_for("the gateway", lambda: hosts[0].status().get("policy_version"))
            for host in [host for host in hosts[1:] if host.role == "gateway"]:
                joining = fabric.first_gateway(TENANT, host.state, provider_named("cryptography"))
                host.node = asyncio.run(joining).node
            for host in [host for host in hosts if host.role == "endpoint"]:
                token = fabric.token(TENANT, "endpoint", vnis=["office", "lan"], tags=["staff"])
                enrolling = enroll(str(token), host.state, provider_named("cryptography"), host.name, lambda *_: None)
                host.node = asyncio.run(enrolling).node
            hosts[0].stop()
            yield overlay
        finally:
            overlay.down()


@contextmanager
def wired(others: tuple[str, ...]) -> Iterator[tuple[dict[str, str], str, str]]:
    """Namespaces by host, and the address and the name of the bridge."""
    number = os.getpid() * 10 + next(_overlays)
    prefix = f"10.{100 + number % 100}.{number // 100 % 250}"
    bridge = f"knbr{number % 100_000}"
    names = {name: f"kn-{name}-{number}" for name in ("gateway", "alice", "bob", *others, "web")}
    try:
        sh(
            f"ip link add name {bridge} type bridge && ip link set dev {bridge} up && ip addr add {prefix}.1/24 dev {bridge}"
        )
        for index, (name, namespace) in enumerate(names.items()):
            sh(f"ip netns add {namespace} && ip -n {namespace} link set lo up")
            if name == "web":
                continue
            port = f"kn{index}-{number % 100_000}"
            sh(f"ip link add name {port} type veth peer name eth0 netns {namespace}")
            sh(f"ip link set dev {port} master {bridge} up")
            sh(f"ip -n {namespace} addr add {prefix}.{index + 2}/24 dev eth0 && ip -n {namespace} link set eth0 up")
        gateway, web = names["gateway"], names["web"]
        sh(f"ip -n {gateway} link add name lan type veth peer name eth0 netns {web}")
        sh(f"ip -n {gateway} addr add 192.168.60.1/24 dev lan && ip -n {gateway} link set lan up")
        sh(f"ip -n {web} addr add {WEB}/24 dev eth0 && ip -n {web} link set eth0 up")
        sh(f"ip -n {gateway} addr add fd60::1/64 dev lan nodad && ip -n {web} addr add {WEB6}/64 dev eth0 nodad")
        yield names, f"{prefix}.1", bridge
    finally:
        for namespace in names.values():
            sh(f"ip netns del {namespace}", check=False)
        sh(f"ip link del {bridge}", check=False)


@contextmanager
def serving(host_namespace: str, port: int = 8080, folder: Path = ROOT / "docs") -> Iterator[None]:
    """A web server there, for the files of a folder."""
    server = subprocess.Popen(
        ("ip", "netns", "exec", host_namespace, sys.executable, "-m", "http.server", str(port), "--bind", "0.0.0.0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        listening = f"ip netns exec {host_namespace} ss -Hltn sport = :{port}"
        wait_for("the web server", lambda: sh(listening).stdout.strip())
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        server.wait()
