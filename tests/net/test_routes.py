"""Site to site: two subnet routers in one VNI, each with a LAN of hosts that know nothing of us.

host 192.168.70.10 -- alice ==== gateway ==== bob -- host 192.168.71.10
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overlay import GRANTS, TENANT, Host, Overlay, serving, sh, wait_for

PING = ("ping", "-c1", "-W2")
CURL = ("curl", "-sS", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}")
ECHO = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9)); print('up', flush=True)\nwhile 1: d, a = s.recvfrom(99); s.sendto(repr(a[0]).encode(), a)"
ASK = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(b'?', (sys.argv[1], 9)); print(s.recv(99).decode())"


class Lan:
    """A host without an agent on the LAN of a subnet router."""

    def __init__(self, router: Host, site: int) -> None:
        self.namespace = router.namespace.replace("kn-", "kn-lan-")
        self.router, self.site = router, site
        self.address, self.address6 = f"192.168.{site}.10", f"fd{site}::10"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ("ip", "netns", "exec", self.namespace, *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def pings(self, address: str) -> bool:
        return self.run(*PING, address).returncode == 0

    def wire(self) -> None:
        name, inside, site = self.namespace, self.router.namespace, self.site
        sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(f"ip -n {inside} link add name site type veth peer name eth0 netns {name}")
        for namespace, device, host in ((inside, "site", 1), (name, "eth0", 10)):
            sh(f"ip -n {namespace} addr add 192.168.{site}.{host}/24 dev {device}")
            sh(
                f"ip -n {namespace} addr add fd{site}::{host}/64 dev {device} nodad && ip -n {namespace} link set {device} up"
            )
        sh(f"ip -n {name} route add default via 192.168.{site}.1 && ip -n {name} route add default via fd{site}::1")

    def unwire(self) -> None:
        sh(f"ip netns del {self.namespace}", check=False)


def kairos(overlay: Overlay, *words: str) -> str:
    command = (
        sys.executable,
        "-m",
        "kairos_cli.main",
        *words,
        "--tenant",
        TENANT,
        "--dir",
        str(overlay.folder / "fabric"),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lans(whole: Overlay) -> Iterator[tuple[Lan, Lan]]:
    sites = Lan(whole.alice, 70), Lan(whole.bob, 71)
    try:
        for lan in sites:
            lan.wire()
        yield sites
    finally:
        for lan in sites:
            lan.unwire()
        whole.push_policy(GRANTS)


@contextmanager
def routed(overlay: Overlay, lans: tuple[Lan, Lan], more: str = "") -> Iterator[None]:
    """Both advertise and both are approved; the policy allows UDP from the one and web from the other."""
    before = [host.config.read_text() for host in (overlay.alice, overlay.bob)]
    for lan in lans:
        site = lan.site
        offer = f'{more}advertise = {{ lan = ["192.168.{site}.0/24"], office = ["fd{site}::/64"] }}\n'
        lan.router.config.write_text(lan.router.config.read_text() + offer)
        for vni, prefix in (("lan", f"192.168.{site}.0/24"), ("office", f"fd{site}::/64")):
            kairos(overlay, "route", "approve", vni, prefix, lan.router.name)
    try:
        overlay.up(*overlay.hosts)
        yield
    finally:
        for host, text in zip((overlay.alice, overlay.bob), before, strict=True):
            host.config.write_text(text)
        for lan in lans:
            for vni, prefix in (("lan", f"192.168.{lan.site}.0/24"), ("office", f"fd{lan.site}::/64")):
                kairos(overlay, "route", "withdraw", vni, prefix, lan.router.name)


def test_two_sites_reach_each_other_as_policy_says(overlay: Overlay, lans: tuple[Lan, Lan]) -> None:
    here, there = lans
    web = {
        "id": "sites",
        "from": [f"external:{overlay.alice.node}"],
        "to": ["192.168.71.0/24"],
        "ports": ["tcp/8080", "udp/9"],
    }
    overlay.push_policy({**GRANTS, "allow": [*GRANTS["allow"], web]})
    with routed(overlay, lans):
        wait_for("the way there", lambda: here.pings(there.address))
        wait_for("the way back", lambda: there.pings(here.address))
        wait_for("the way there in IPv6", lambda: here.pings(there.address6))
        with serving(there.namespace), serving(here.namespace):
            assert here.run(*CURL, f"http://{there.address}:8080/protocol.md").stdout == "200"
            refused = there.run(*CURL, f"http://{here.address}:8080/protocol.md")
            assert refused.returncode != 0
        with subprocess.Popen(
            ("ip", "netns", "exec", there.namespace, sys.executable, "-c", ECHO), stdout=subprocess.PIPE, text=True
        ) as echo:
            assert echo.stdout is not None
            echo.stdout.readline()
            assert here.run(sys.executable, "-c", ASK, there.address).stdout.strip() == repr(here.address)
            echo.kill()
        flows = overlay.gateway.tell("flows")
        assert any("192.168.70.10" in flow["flow"] and flow["rule"] == "grant:sites" for flow in flows)
        assert any(flow["verdict"] == "deny" for flow in overlay.bob.tell("flows"))
        kairos(overlay, "route", "withdraw", "lan", "192.168.71.0/24", "bob")
        wait_for("the end of the route", lambda: not here.pings(there.address))
        assert here.pings(there.address6)


def test_what_nobody_approved_changes_nothing(overlay: Overlay, lans: tuple[Lan, Lan]) -> None:
    text = overlay.alice.config.read_text()
    overlay.alice.config.write_text(text + 'advertise = { lan = ["192.168.70.0/24"] }\n')
    try:
        overlay.up(*overlay.hosts)
        waiting = "waits for approval"
        wait_for("the offer", lambda: waiting in kairos(overlay, "route", "list"))
        assert overlay.alice.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "0"
        assert "kairos_agent" not in overlay.alice.run("nft", "list", "tables").stdout
        assert not overlay.bob.reaches(lans[0].address)
    finally:
        overlay.alice.config.write_text(text)


def test_masquerade_shows_the_routers_address(overlay: Overlay, lans: tuple[Lan, Lan]) -> None:
    """So a LAN whose hosts have no route back can be reached, one way."""
    there = lans[1]
    sh(f"ip -n {there.namespace} route del default via 192.168.71.1")
    try:
        with routed(overlay, lans, "masquerade = true\n"):
            wait_for("the way there", lambda: overlay.alice.reaches(there.address))
            assert not there.pings(overlay.address_of(overlay.alice))
    finally:
        sh(f"ip -n {there.namespace} route add default via 192.168.71.1")


def test_a_lan_host_cannot_speak_as_a_member(overlay: Overlay, lans: tuple[Lan, Lan]) -> None:
    here, _ = lans
    with routed(overlay, lans):
        network = overlay.alice.state.network
        assert network is not None
        member = next(
            a
            for each in network.leases
            if each.node == overlay.gateway.node
            for a in each.addresses
            if a.startswith("10.8")
        )
        sh(f"ip -n {here.namespace} addr add 10.8.0.200/32 dev lo")
        wait_for("the way", lambda: here.pings(member.split("/")[0]))
        assert here.run("ping", "-c2", "-W1", "-I", "10.8.0.200", member.split("/")[0]).returncode != 0
        assert not any("10.8.0.200" in flow["flow"] for flow in overlay.alice.tell("flows"))
        sh(f"ip -n {here.namespace} addr del 10.8.0.200/32 dev lo")


def test_a_kill_leaves_nothing_after_the_next_start(overlay: Overlay, lans: tuple[Lan, Lan]) -> None:
    alice = overlay.alice
    with routed(overlay, lans):
        wait_for("forwarding", lambda: "kairos_agent" in alice.run("nft", "list", "tables").stdout)
        alice.kill()
        assert alice.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "1"
    alice.start()
    alice.await_tunnel()
    assert alice.stop() == 0
    assert alice.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "0"
    assert alice.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout.strip() == "0"
    assert alice.traces() == ""
