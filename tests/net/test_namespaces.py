"""`isolate = "netns"`: VNIs with the same prefix side by side on one host, each seen only by the programs put into it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overlay import TENANT, WEB, Host, Overlay, serving, wait_for

TWIN = {"name": "twin", "prefixes": ["10.7.0.0/24", "fd07::/64"]}
SAY = (
    "import socket, sys\ns = socket.create_server(('', 8080))\nwhile True: s.accept()[0].sendall(sys.argv[1].encode())"
)
HEAR = "import socket, sys; print(socket.create_connection((sys.argv[1], 8080), 5).recv(99).decode())"


def inside(host: Host, vni: str, *command: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "kairos_cli.main", "exec", "--state", str(host.state.directory), vni, "--", *command)


def address(host: Host, vni: str) -> str:
    record = next(each for each in host.status()["vnis"] if each["name"] == vni)
    return str(record["addresses"][0]).split("/")[0]


def names(host: Host) -> set[str]:
    return {vni["name"] for vni in host.status().get("vnis", ())}


@contextmanager
def saying(host: Host, vni: str) -> Iterator[None]:
    """A server inside that VNI that says its name."""
    command = ("ip", "netns", "exec", host.namespace, *inside(host, vni, sys.executable, "-c", SAY, vni))
    server = subprocess.Popen(command)
    try:
        wait_for("the server", lambda: "8080" in host.run(*inside(host, vni, "ss", "-Hltn")).stdout)
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def twins(overlay: Overlay) -> Iterator[Overlay]:
    """alice and bob are in `office` and in `twin`, which has the prefix of office and an exit; both isolate."""
    exits = [{"prefix": prefix, "via": overlay.gateway.node} for prefix in ("0.0.0.0/0", "::/0")]
    overlay.fabric.admin("POST", f"/{TENANT}/vnis", TWIN | {"routes": exits})
    for host in (overlay.alice, overlay.bob):
        overlay.fabric.admin("PUT", f"/{TENANT}/vnis/twin/members/{host.node}", {})
        host.config.write_text('isolate = "netns"\n')
    try:
        overlay.up(*overlay.hosts)
        for host in (overlay.alice, overlay.bob):
            wait_for("both VNIs", lambda host=host: names(host) >= {"office", "twin"})  # type: ignore[misc]
        yield overlay
    finally:
        overlay.fabric.admin("DELETE", f"/{TENANT}/vnis/twin")
        for host in (overlay.alice, overlay.bob):
            host.stop()  # not killed: it takes its namespaces' names along
            host.config.write_text("")


def test_the_same_prefix_twice_is_two_networks(twins: Overlay) -> None:
    alice, bob = twins.alice, twins.bob
    with saying(bob, "office"), saying(bob, "twin"):
        for vni in ("office", "twin"):
            heard = wait_for("an answer", lambda vni=vni: alice.run(  # type: ignore[misc]
                *inside(alice, vni, sys.executable, "-c", HEAR, address(bob, vni))).stdout)  # fmt: skip
            assert heard.strip() == vni
        assert "kairos" not in alice.run("ip", "-o", "link").stdout
    shown = alice.run(*inside(alice, "twin", "ls", "/sys/class/net")).stdout.split()
    assert shown == sorted(["lo", next(v["interface"] for v in alice.status()["vnis"] if v["name"] == "twin")])
    assert not alice.run(*inside(alice, "office", "ping", "-c1", "-W1", WEB)).stdout.count("bytes from")


def test_an_exit_leads_to_the_world_where_policy_lets_it(twins: Overlay) -> None:
    alice, web = twins.alice, twins.places["web"]
    routes = alice.run("ip", "route").stdout
    curl = ("curl", "-sS", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}")
    with serving(web), serving(web, 8081):
        wait_for("the exit", lambda: alice.run(*inside(alice, "twin", *curl, f"http://{WEB}:8080/")).stdout == "200")
        assert alice.run(*inside(alice, "twin", *curl, f"http://{WEB}:8081/")).stdout != "200"
        assert alice.run(*inside(alice, "office", *curl, "-m", "1", f"http://{WEB}:8080/")).stdout != "200"
    assert alice.run("ip", "route").stdout == routes


def test_the_gateway_answers_each_in_its_own_network(twins: Overlay) -> None:
    """Its address is the same in both. In one routing table one of the two would get the other's answers."""
    office, twin = (address(twins.gateway, vni) for vni in ("office", "twin"))
    assert office == twin
    for vni in ("office", "twin"):
        wait_for(f"the gateway's answer in {vni}", lambda vni=vni: not twins.alice.run(  # type: ignore[misc]
            *inside(twins.alice, vni, "ping", "-c1", "-W2", office)).returncode)  # fmt: skip
    placed = {each["name"]: each["namespace"] for each in twins.gateway.status()["vnis"]}
    assert not placed["office"]
    assert placed["twin"].startswith(f"kairos-{twins.gateway.node}-")


def test_exec_says_what_is_wrong(twins: Overlay) -> None:
    alice = twins.alice
    said = alice.run(*inside(alice, "nowhere", "true"))
    assert said.returncode == 1
    assert "not in VNI nowhere" in said.stderr
    assert alice.run(*inside(alice, "twin", "sh", "-c", "exit 7")).returncode == 7
    owner = alice.run("env", "SUDO_USER=nobody", *inside(alice, "twin", "id", "-un"))
    assert owner.stdout.strip() == "nobody", owner.stderr


def test_a_killed_agent_leaves_names_that_its_next_start_removes(twins: Overlay) -> None:
    def left() -> list[str]:
        return [name for name in os.listdir("/run/netns") if name.startswith(f"kairos-{twins.alice.node}-")]

    assert len(left()) >= 2
    twins.alice.kill()
    assert left()
    twins.alice.config.write_text("")
    twins.alice.start()
    twins.alice.await_tunnel()
    assert not left()


def test_a_vni_that_is_left_takes_its_namespace_along(twins: Overlay) -> None:
    alice = twins.alice
    place = next(vni["namespace"] for vni in alice.status()["vnis"] if vni["name"] == "twin")
    assert place in os.listdir("/run/netns")
    twins.fabric.admin("DELETE", f"/{TENANT}/vnis/twin/members/{alice.node}")
    wait_for("its end", lambda: place not in os.listdir("/run/netns"))
    assert "office" in names(alice)
