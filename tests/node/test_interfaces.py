"""A gateway's VNIs in the kernel, in a network namespace of the test's own: how they are found, and what a kill leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NODE = f"gw-test{os.getpid()}"
# Makes so many VNIs, the last of them isolated, and ends with its input.
DAEMON = """
import asyncio, sys
from ipaddress import ip_interface, ip_network
from kairos_node.netlink import GATEWAY, VniPlan, open_interfaces

def plan(vni, last):
    networks = ip_network(f"10.64.{vni}.0/24"), ip_network(f"fd40:{vni}::/64")
    addresses = tuple(ip_interface(f"{network[1]}/{network.prefixlen}") for network in networks)
    return VniPlan(vni, f"vni-{vni}", 1380, addresses, networks, isolated=vni == last)

async def main(node, count):
    async with open_interfaces(GATEWAY, node) as interfaces:
        for vni in range(1, count + 1):
            await interfaces.apply(plan(vni, count))
        print("up", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"kn-interfaces-{os.getpid()}"
    subprocess.run(("ip", "netns", "add", name), check=True)
    yield name
    subprocess.run(("ip", "netns", "del", name), check=True)


@contextmanager
def daemon(namespace: str, vnis: int) -> Iterator[subprocess.Popen[str]]:
    # nsenter, not `ip netns exec`: as a daemon of a plain host it has the mounts of all, and its namespaces outlive it
    inside = ("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", DAEMON, NODE, str(vnis))
    process = subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.communicate()


def shown(namespace: str, *command: str) -> list[str]:
    done = subprocess.run(("ip", "-n", namespace, *command), capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "kairosg" in line or "1100000000" in line]


def left(namespace: str) -> list[str]:
    own = [path.name for path in Path("/run/netns").glob(f"kairos-{NODE}-*")]
    return own + shown(namespace, "rule") + shown(namespace, "-6", "rule") + shown(namespace, "-o", "link")


def test_one_rule_of_each_family_leads_to_all_vnis(namespace: str) -> None:
    with daemon(namespace, 40):
        for family in ("-4", "-6"):
            assert len(shown(namespace, family, "rule")) == 1
            assert len(shown(namespace, family, "route", "show", "table", "1100000000")) == 39
        assert "dev kairosg7 " in shown(namespace, "route", "get", "10.64.7.9")[0]
    assert left(namespace) == []


def test_what_a_kill_leaves_is_gone_after_the_next_start(namespace: str) -> None:
    with daemon(namespace, 5) as killed:
        killed.kill()
    assert f"kairos-{NODE}-5" in left(namespace)
    with daemon(namespace, 0):
        assert left(namespace) == []
