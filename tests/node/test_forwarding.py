"""A host that starts to forward: in namespaces of its own, with real packets."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root")
ADVERTISE = """
import socket, struct, sys
to = ("ff02::1", 0, 0, socket.if_nametoindex("eth0"))
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
    raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    raw.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), to)
"""
FORWARD = """
import asyncio, sys
from kairos_node.forwarding import Forwarding

CHAINS = 'chain forward { type filter hook forward priority filter; policy accept; }'

async def main():
    async with Forwarding("kairos_gateway") as forwarding:
        for line in sys.stdin:
            if line == "apply\\n":
                await forwarding.apply(CHAINS)
            print("done", flush=True)

print("ready", flush=True)
asyncio.run(main())
"""


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


class Hosts:
    """left -- [eth-left] host [eth-right] -- right, and what is added to the host later."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(3)
        for name in ("host", "left", "right"):
            sh(f"ip netns add {self.ns(name)} && ip -n {self.ns(name)} link set lo up")
        self.join("left", "10.1.0", "eth-left")
        self.join("right", "10.2.0", "eth-right")

    def ns(self, name: str) -> str:
        return f"kfwd-{self.id}-{name}"

    def join(self, name: str, prefix: str, interface: str) -> None:
        """The host is .1 and the other .2, which has its default route there."""
        host, other = self.ns("host"), self.ns(name)
        sh(f"ip -n {host} link add {interface} type veth peer name eth0 netns {other}")
        sh(f"ip -n {host} addr add {prefix}.1/24 dev {interface} && ip -n {host} link set {interface} up")
        sh(f"ip -n {other} addr add {prefix}.2/24 dev eth0 && ip -n {other} link set eth0 up")
        sh(f"ip -n {other} route add default via {prefix}.1")

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ("ip", "netns", "exec", self.ns(name), *command), capture_output=True, text=True, check=False
        )

    def reaches(self, name: str, address: str) -> bool:
        return self.run(name, "ping", "-c", "1", "-W", "1", address).returncode == 0

    def switch(self, name: str) -> str:
        return self.run("host", "cat", f"/proc/sys/net/{name}").stdout.strip()

    def turn(self, name: str, value: int) -> None:
        sh(f"ip netns exec {self.ns('host')} sh -c 'echo {value} > /proc/sys/net/{name}'")

    def daemon(self) -> Daemon:
        return Daemon(self)

    def remove(self) -> None:
        for name in ("host", "left", "right"):
            sh(f"ip netns del {self.ns(name)}")


class Daemon:
    """A process on the host with the product's own forwarding."""

    def __init__(self, hosts: Hosts) -> None:
        self._process = subprocess.Popen(
            ("ip", "netns", "exec", hosts.ns("host"), sys.executable, "-c", FORWARD),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert self._answer() == "ready\n"

    def apply(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("apply\n")
        self._process.stdin.flush()
        assert self._answer() == "done\n"

    def stop(self) -> None:
        self._process.communicate(timeout=20)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.remove()


IPV4, IPV6 = "ipv4/ip_forward", "ipv6/conf/all/forwarding"


def test_a_host_becomes_no_router_for_others(hosts: Hosts) -> None:
    daemon = hosts.daemon()
    daemon.apply()
    assert hosts.switch(IPV4) == hosts.switch(IPV6) == "1"
    assert hosts.reaches("left", "10.1.0.1")
    assert not hosts.reaches("left", "10.2.0.2")
    sh(f"ip -n {hosts.ns('host')} link add late type veth peer name late-end")
    daemon.stop()
    assert hosts.switch(IPV4) == hosts.switch(IPV6) == "0"
    assert hosts.switch("ipv6/conf/late/accept_ra") == hosts.switch("ipv6/conf/default/accept_ra") == "1"
    assert "kairos" not in hosts.run("host", "nft", "list", "ruleset").stdout


def test_a_host_that_forwards_goes_on_as_it_did(hosts: Hosts) -> None:
    hosts.turn(IPV4, 1)
    rules = "add table ip docker; add chain ip docker f { type filter hook forward priority 0; policy accept; }"
    assert hosts.run("host", "nft", rules).returncode == 0
    daemon = hosts.daemon()
    daemon.apply()
    assert hosts.reaches("left", "10.2.0.2")
    daemon.stop()
    assert hosts.reaches("left", "10.2.0.2")
    assert (hosts.switch(IPV4), hosts.switch(IPV6)) == ("1", "0")
    assert "table ip docker" in hosts.run("host", "nft", "list", "ruleset").stdout


def bridge(hosts: Hosts) -> None:
    """What a container runtime does: a bridge, and a container on it, which `right` plays."""
    host = hosts.ns("host")
    sh(f"ip -n {host} link add docker0 type bridge && ip -n {host} addr add 10.3.0.1/24 dev docker0")
    sh(
        f"ip -n {host} link set docker0 up && ip -n {host} link add veth1 type veth peer name eth1 netns {hosts.ns('right')}"
    )
    sh(f"ip -n {host} link set veth1 master docker0 up && ip -n {hosts.ns('right')} addr add 10.3.0.2/24 dev eth1")
    sh(f"ip -n {hosts.ns('right')} link set eth1 up && ip -n {hosts.ns('right')} route replace default via 10.3.0.1")


def test_containers_that_come_later_are_forwarded_and_stay_so(hosts: Hosts) -> None:
    daemon = hosts.daemon()
    daemon.apply()
    bridge(hosts)
    daemon.apply()
    assert hosts.reaches("left", "10.3.0.2")
    assert hosts.reaches("right", "10.1.0.2")
    daemon.stop()
    assert hosts.switch(IPV4) == "1"
    assert hosts.reaches("right", "10.1.0.2")


def test_a_start_after_a_kill_puts_back_what_was_changed(hosts: Hosts) -> None:
    accept = "ipv6/conf/eth-left/accept_ra"
    daemon = hosts.daemon()
    daemon.apply()
    daemon.kill()
    assert (hosts.switch(IPV4), hosts.switch(accept)) == ("1", "2")
    again = hosts.daemon()
    again.stop()
    assert (hosts.switch(IPV4), hosts.switch(IPV6), hosts.switch(accept)) == ("0", "0", "1")


def test_only_the_version_that_was_turned_on_is_dropped(hosts: Hosts) -> None:
    hosts.turn(IPV6, 1)
    daemon = hosts.daemon()
    daemon.apply()
    shown = hosts.run("host", "nft", "list", "table", "inet", "kairos_gateway").stdout
    assert "meta nfproto ipv4 iifname" in shown
    assert "meta nfproto ipv6 iifname" not in shown
    daemon.stop()
    assert (hosts.switch(IPV4), hosts.switch(IPV6)) == ("0", "1")


def test_default_routes_that_routers_advertise_stay(hosts: Hosts) -> None:
    def routes() -> str:
        return hosts.run("host", "ip", "-6", "route", "show", "default").stdout

    def advertise() -> None:
        assert hosts.run("left", sys.executable, "-c", ADVERTISE).returncode == 0

    sh(f"ip netns exec {hosts.ns('left')} sysctl -qw net.ipv6.conf.eth0.accept_ra=0")
    settle(hosts)
    advertise()
    assert "eth-left" in routes()
    daemon = hosts.daemon()
    daemon.apply()
    assert "eth-left" in routes()
    advertise()
    assert "eth-left" in routes()
    daemon.stop()
    assert "eth-left" in routes()
    assert hosts.switch("ipv6/conf/eth-left/accept_ra") == "1"


def settle(hosts: Hosts) -> None:
    """Until the link-local addresses are more than tentative."""
    for name, interface in (("left", "eth0"), ("host", "eth-left")):
        sh(
            f"timeout 10 sh -c 'until ip -n {hosts.ns(name)} -6 addr show dev {interface} | grep fe80 | grep -qv tentative;"
            " do sleep 0.1; done'"
        )
