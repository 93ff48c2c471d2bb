"""A VNI in a namespace of the gateway with its own way out: clients on that network have no agent, and policy judges them.

alice ==== gateway [namespace of the VNI `lan`] -- interface, VLAN or NAT -- web 192.168.60.10
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import GRANTS, TENANT, WEB, WEB6, Overlay, serving, sh, wait_for

CURL = ("curl", "-sS", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}")
SAY = """import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(("::", 8080))
while True: s.sendto(*(lambda data, peer: (peer[0].encode(), peer))(*s.recvfrom(99)))
"""
ASK = """import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(b"?", (sys.argv[1], 8080))
print(s.recv(99).decode().removeprefix("::ffff:"))
"""
WHO = "import socket, sys; s = socket.create_server(('', 8080)); print('up', flush=True); print(s.accept()[1][0], flush=True)"
ROUTED = '{ vni = "lan", mode = "routed", interface = "lan", addresses = ["192.168.60.1/24", "fd60::1/64"] }'
TAGGED = '{ vni = "lan", mode = "routed", interface = "lan", vlan = 30, addresses = ["192.168.60.1/24"] }'
PORTS = ["tcp/8080", "udp/8080", "icmp"]
MEMBER = "10.8.0.99"  # of the VNI's prefix
NAT = '{ vni = "lan", mode = "nat" }'


def web(overlay: Overlay) -> str:
    return overlay.gateway.namespace.replace("gateway", "web")


def outside(overlay: Overlay, *command: str) -> subprocess.CompletedProcess[str]:
    whole = ("ip", "netns", "exec", web(overlay), *command)
    return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)


def namespaces(overlay: Overlay) -> list[str]:
    """Those that the gateway made."""
    return [path.name for path in Path("/run/netns").glob(f"kairos-{overlay.gateway.node}-*")]


def lease(overlay: Overlay, prefix: str = "10.8.") -> str:
    """alice's address in the VNI `lan`."""
    network = overlay.alice.state.network
    assert network is not None
    found = (a for each in network.leases if each.node == overlay.alice.node for a in each.addresses)
    return next(address.split("/")[0] for address in found if address.startswith(prefix))


@contextmanager
def saying(namespace: str) -> Iterator[None]:
    """Somebody there who says, over UDP, by what address it was asked."""
    with subprocess.Popen(("ip", "netns", "exec", namespace, sys.executable, "-c", SAY)) as server:
        try:
            wait_for("the server", lambda: sh(f"ip netns exec {namespace} ss -Hlnu sport = :8080").stdout.strip())
            yield
        finally:
            server.kill()


def listed(overlay: Overlay) -> list[tuple[str, ...]]:
    """`kairos uplink list`, as soon as the gateway has reported one."""
    command = (
        f"{sys.executable} -m kairos_cli.main uplink list --json --tenant {TENANT} --dir {overlay.folder / 'fabric'}"
    )
    found = wait_for("a report", lambda: json.loads(sh(command).stdout), 30)
    return [(each["vni"], each["gateway"], each["mode"], each["interface"], each["state"]) for each in found]


@contextmanager
def uplink(overlay: Overlay, how: str) -> Iterator[None]:
    gateway, text = overlay.gateway, overlay.gateway.config.read_text()
    dmz = {"id": "dmz", "from": [f"external:{gateway.node}"], "to": ["tag:staff"], "ports": PORTS}
    overlay.push_policy({**GRANTS, "allow": [dmz, {**GRANTS["allow"][1], "id": "out", "ports": PORTS}]})
    gateway.config.write_text(f"{text}uplink = [{how}]\n")
    try:
        overlay.up(gateway, overlay.alice)
        yield
    finally:
        gateway.stop()  # its end gives the interface back; a kill would take a veth along
        overlay.down()
        gateway.config.write_text(text)
        gateway.start()  # what a kill left
        wait_for("a clean start", lambda: gateway.status().get("policy_version"))
        gateway.stop()
        gateway.run("ip", "addr", "replace", "192.168.60.1/24", "dev", "lan")
        gateway.run("ip", "addr", "replace", "fd60::1/64", "dev", "lan", "nodad")
        gateway.run("ip", "link", "set", "lan", "up")
        overlay.push_policy(GRANTS)


@pytest.fixture
def way_back(overlay: Overlay) -> Iterator[None]:
    sh(f"ip -n {web(overlay)} route add 10.8.0.0/24 via 192.168.60.1")
    sh(f"ip -n {web(overlay)} route add fd08::/64 via fd60::1")
    yield
    sh(f"ip -n {web(overlay)} route del 10.8.0.0/24", check=False)
    sh(f"ip -n {web(overlay)} route del fd08::/64", check=False)


@pytest.mark.usefixtures("way_back")
def test_clients_and_endpoints_reach_each_other_as_policy_says(overlay: Overlay) -> None:
    with uplink(overlay, ROUTED):
        address, alice, gateway = lease(overlay), overlay.alice, overlay.gateway
        assert len(namespaces(overlay)) == 1
        assert "lan" not in gateway.run("ip", "-o", "link").stdout
        with serving(alice.namespace):
            wait_for("the client's way in", lambda: outside(overlay, *CURL, f"http://{address}:8080/").stdout == "200")
            sh(f"ip -n {web(overlay)} addr add {MEMBER}/32 dev lo")
            assert outside(overlay, *CURL, "-m", "2", "--interface", MEMBER, f"http://{address}:8080/").returncode != 0
            sh(f"ip -n {web(overlay)} addr del {MEMBER}/32 dev lo")
        assert outside(overlay, *CURL, f"http://{address}:8081/").returncode != 0
        flows = gateway.tell("flows")
        assert any(flow["rule"] == "grant:dmz" for flow in flows if f"{WEB}:" in flow["flow"])
        assert any(flow["verdict"] == "deny" for flow in flows if ":8081" in flow["flow"])
        assert not any(MEMBER in flow["flow"] for flow in flows), "a client spoke as a member"
        with subprocess.Popen(
            ("ip", "netns", "exec", web(overlay), sys.executable, "-c", WHO), stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            server.stdout.readline()
            alice.run(*CURL, f"http://{WEB}:8080/")
            assert server.stdout.readline().strip() == address
            server.kill()
        for here, there in ((address, WEB), (lease(overlay, "fd08:"), WEB6)):  # UDP and ICMP, both ways, both versions
            with saying(alice.namespace):
                assert outside(overlay, sys.executable, "-c", ASK, here).stdout.strip() == there
            with saying(web(overlay)):
                assert alice.run(sys.executable, "-c", ASK, there).stdout.strip() == here
            assert outside(overlay, "ping", "-c1", "-W5", here).returncode == 0
            assert alice.reaches(there)
        assert listed(overlay) == [("lan", gateway.node, "routed", "lan", "up")]


def test_a_vlan_of_an_interface_that_the_host_keeps(overlay: Overlay) -> None:
    name = web(overlay)
    if sh(f"ip -n {name} link add link eth0 name tagged type vlan id 30", check=False).returncode:
        pytest.skip("this kernel has no VLANs (8021q)")
    sh(f"ip -n {name} link set tagged up")
    sh(f"ip -n {name} addr del {WEB}/24 dev eth0 && ip -n {name} addr add {WEB}/24 dev tagged")
    sh(f"ip -n {name} route add 10.8.0.0/24 via 192.168.60.1")
    try:
        with uplink(overlay, TAGGED), serving(name):
            assert "lan" in overlay.gateway.run("ip", "-o", "link").stdout
            url = f"http://{WEB}:8080/"
            wait_for("the way out", lambda: overlay.alice.run(*CURL, url).stdout == "200")
    finally:
        sh(f"ip -n {name} link del tagged && ip -n {name} addr add {WEB}/24 dev eth0")


def test_nat_leads_out_and_nobody_in(overlay: Overlay) -> None:
    with uplink(overlay, NAT), serving(web(overlay)), serving(overlay.alice.namespace):
        assert len(namespaces(overlay)) == 1
        wait_for("the way out", lambda: overlay.alice.run(*CURL, f"http://{WEB}:8080/").stdout == "200")
        with saying(web(overlay)):
            for there, masked in ((WEB, "192.168.60.1"), (WEB6, "fd60::1")):
                assert overlay.alice.run(sys.executable, "-c", ASK, there).stdout.strip() == masked
                assert overlay.alice.reaches(there)
        sh(f"ip -n {web(overlay)} route add 10.8.0.0/24 via 192.168.60.1")
        assert outside(overlay, *CURL, "-m", "2", f"http://{lease(overlay)}:8080/").returncode != 0
        sh(f"ip -n {web(overlay)} route del 10.8.0.0/24")


def test_a_kill_leaves_nothing_after_the_next_start_and_end(overlay: Overlay) -> None:
    with uplink(overlay, NAT):
        wait_for("the namespace", lambda: namespaces(overlay))
        overlay.gateway.kill()
        assert namespaces(overlay)
    assert namespaces(overlay) == []
    assert overlay.gateway.traces() == ""


@pytest.mark.usefixtures("way_back")
def test_nobody_behind_a_gateway_speaks_as_a_member_without_an_uplink_either(overlay: Overlay) -> None:
    overlay.up(overlay.gateway, overlay.alice)
    address = lease(overlay)
    sh(f"ip -n {web(overlay)} addr add {MEMBER}/32 dev lo")
    try:
        wait_for("the client's way in", lambda: outside(overlay, "ping", "-c1", "-W1", address).returncode == 0)
        assert outside(overlay, "ping", "-c2", "-W1", "-I", MEMBER, address).returncode != 0
        assert not any(MEMBER in flow["flow"] for flow in overlay.gateway.tell("flows"))
    finally:
        sh(f"ip -n {web(overlay)} addr del {MEMBER}/32 dev lo")
