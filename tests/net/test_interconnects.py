"""Two VNIs with the same prefixes, joined: whole daemons, both sides call each other by name, and lose each other when told so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from overlay import GRANTS, TENANT, Host, Overlay, serving, wait_for

CURL = ("curl", "-sS", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}")
PREFIXES = ["10.77.0.0/24", "fd77::/64"]
EAST_SEEN, WEST_SEEN = ("10.201.0.0/24", "fd21::/64"), ("10.202.0.0/24", "fd22::/64")
MAPS = [
    {"vni": vni, "prefix": prefix, "seen": seen}
    for vni, names in (("east", EAST_SEEN), ("west", WEST_SEEN))
    for prefix, seen in zip(PREFIXES, names, strict=True)
]
OUT = {"id": "out", "from": ["tag:staff"], "to": ["*"], "ports": ["tcp/8080", "udp/*"]}
ACROSS = {"id": "across", "from": ["tag:staff"], "to": ["tag:staff"], "ports": ["tcp/8080", "udp/*", "icmp"]}
IN = {"id": "in", "from": [*EAST_SEEN, *WEST_SEEN], "to": ["tag:staff"], "ports": ["tcp/8080", "udp/*"]}
# Prints how long each datagram of an echo was when it came back, and the address that answered.
ASK = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.settimeout(5)
    udp.connect((sys.argv[1], 9))
    udp.send(b"x" * int(sys.argv[2]))
    data, sender = udp.recvfrom(65535)
    print(len(data), sender[0])
"""
ECHO = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
    udp.bind(("::", 9))
    print("ready", flush=True)
    while True:
        data, sender = udp.recvfrom(65535)
        udp.sendto(data, sender)
"""


def grants(*more: dict[str, Any]) -> dict[str, Any]:
    return {**GRANTS, "allow": [*GRANTS["allow"], OUT, IN, *more]}


BOTH_WAYS = grants(
    {**ACROSS, "interconnect": "east->west"}, {**ACROSS, "id": "back", "interconnect": "west->east", "ports": ["icmp"]}
)


@pytest.fixture(scope="module")
def two_vnis(whole: Overlay) -> Iterator[None]:
    """alice in east, bob in west, the VNIs joined, policy for both ways."""
    fabric = whole.fabric
    for name, host in (("east", whole.alice), ("west", whole.bob)):
        fabric.admin("POST", f"/{TENANT}/vnis", {"name": name, "prefixes": PREFIXES})
        fabric.admin("PUT", f"/{TENANT}/vnis/{name}/members/{host.node}", {})
    join(whole)
    whole.push_policy(BOTH_WAYS)
    yield
    if fabric.admin("GET", f"/{TENANT}/interconnects")["items"]:
        part(whole)
    for name in ("east", "west"):
        fabric.admin("DELETE", f"/{TENANT}/vnis/{name}")
    whole.push_policy(GRANTS)


@pytest.fixture
def joined(two_vnis: None, overlay: Overlay) -> Overlay:
    overlay.up(*overlay.hosts)
    version = overlay.fabric.admin("GET", f"/{TENANT}/policy")["version"]
    hosts = overlay.hosts
    wait_for("the policy", lambda: all(host.status().get("policy_version") == version for host in hosts))
    wait_for("the way there", lambda: WEST_SEEN[0] in routes(overlay.alice))
    wait_for("the way back", lambda: EAST_SEEN[0] in routes(overlay.bob))
    return overlay


def join(overlay: Overlay) -> None:
    overlay.fabric.admin("POST", f"/{TENANT}/interconnects", {"a": "east", "b": "west", "maps": MAPS})


def part(overlay: Overlay) -> None:
    overlay.fabric.admin("DELETE", f"/{TENANT}/interconnects/east/west")


def called(host: Host, vni: str, seen: tuple[str, str]) -> tuple[str, str]:
    """What the other side calls this host: IPv4, IPv6."""
    found = next(each for each in host.status()["vnis"] if each["name"] == vni)
    ends = [address.partition("/")[0] for address in found["addresses"]]
    assert ends[0].startswith("10.77.0.")
    assert ends[1].startswith("fd77::")
    return seen[0].replace("0/24", ends[0].rpartition(".")[2]), seen[1].replace("/64", ends[1].rpartition(":")[2])


def test_both_sides_name_each_other(joined: Overlay) -> None:
    alice, bob = joined.alice, joined.bob
    bob4, bob6 = called(bob, "west", WEST_SEEN)
    alice4, alice6 = called(alice, "east", EAST_SEEN)
    for host, address in ((alice, bob4), (alice, bob6), (bob, alice4), (bob, alice6)):
        wait_for(f"{host.name} to reach {address}", partial(host.reaches, address))
    for address, hop in ((bob4, "10.77.0.1"), (bob6, "fd77::1")):
        assert f"From {hop}" in alice.run("ping", "-c1", "-W5", "-t", "1", address).stdout
    with serving(bob.namespace):
        assert alice.run(*CURL, f"http://{bob4}:8080/protocol.md").stdout == "200"
    crossed = [flow for flow in joined.gateway.tell("flows") if "from vni" in flow["flow"]]
    assert {flow["rule"] for flow in crossed} == {"grant:across", "grant:back"}
    assert joined.gateway.status()["counters"]["crossed"] > 0


def test_datagrams_cross_as_on_a_network(joined: Overlay) -> None:
    """Large ones in fragments: those of the first wait for four verdicts together. To a closed port, an ICMP error comes
    back about the packet that was sent, or it would not find its socket."""
    ends = called(joined.bob, "west", WEST_SEEN)
    command = ("ip", "netns", "exec", joined.bob.namespace, sys.executable, "-c", ECHO)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        for address in ends:
            assert joined.alice.run(sys.executable, "-c", ASK, address, "4000").stdout.split() == ["4000", address]
        echo.kill()
    for address in ends:
        assert "ConnectionRefusedError" in joined.alice.run(sys.executable, "-c", ASK, address, "10").stderr


def test_a_deleted_interconnect_cuts_what_lives(joined: Overlay) -> None:
    """The stream has its flows and verdicts; it stops all the same, and nothing of it is heard after the gateway knows."""
    bob4, _ = called(joined.bob, "west", WEST_SEEN)
    ping = ("ip", "netns", "exec", joined.alice.namespace, "ping", "-i", "0.02", bob4)
    stream = subprocess.Popen(ping, stdout=subprocess.PIPE, text=True)
    try:
        assert stream.stdout is not None
        assert any("bytes from" in stream.stdout.readline() for _ in range(10))
        part(joined)
        wait_for("the end of the route", lambda: "10.202.0.0/24" not in routes(joined.alice))
        crossed = joined.gateway.status()["counters"]["crossed"]
        assert not joined.alice.reaches(bob4)
        assert joined.gateway.status()["counters"]["crossed"] == crossed
    finally:
        stream.terminate()
        stream.communicate()
    join(joined)
    wait_for("the way to be back", lambda: joined.alice.reaches(bob4))


def routes(host: Host) -> list[str]:
    return [route for vni in host.status()["vnis"] for route in vni["routes"]]


def test_only_what_policy_lets_across_crosses(joined: Overlay) -> None:
    alice4, _ = called(joined.alice, "east", EAST_SEEN)
    with serving(joined.alice.namespace):
        refused = joined.bob.run(*CURL, f"http://{alice4}:8080/protocol.md")
    assert "Failed to connect" in refused.stderr
    joined.gateway.await_line("no grant allows this (deny:default)")
    joined.push_policy(grants())  # everything within the VNIs, nothing across
    bob4, _ = called(joined.bob, "west", WEST_SEEN)
    wait_for("the end of the way", lambda: not joined.alice.reaches(bob4))
