"""The same through whole daemons: root inside one VNI of a host sends what it likes, and the other side's interfaces are watched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import GRANTS, TENANT, Host, Overlay, running_overlay, wait_for

DISCARD = {"id": "discard", "from": ["*"], "to": ["*"], "ports": ["udp/9"], "reason": "policy is not what holds here"}
MARK = "must not cross"
WATCH = f"""import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 3 << 8)
print("ready", flush=True)
while True:
    if {MARK!r}.encode() in s.recv(65536): print("leaked", flush=True)
"""
SEND = f"""import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
source, target, ttl, fragment = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[5].encode())
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
body = struct.pack("!HHHH", 9, 9, 8 + len({MARK!r}), 0) + {MARK!r}.encode()
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, fragment, ttl, 17, 0, *map(socket.inet_aton, (source, target)))
for _ in range(3): s.sendto(head + body, (target, 0))
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    """alice is in office and twin, each in a namespace; bob only in twin, which has the prefix of office."""
    with running_overlay(tmp_path_factory.mktemp("leak")) as made:
        made.fabric.admin("POST", f"/{TENANT}/vnis", {"name": "twin", "prefixes": ["10.7.0.0/24"]})
        made.alice.config.write_text('isolate = "netns"\n')
        for host in (made.alice, made.bob):
            made.fabric.admin("PUT", f"/{TENANT}/vnis/twin/members/{host.node}", {})
        for vni in ("office", "lan"):
            made.fabric.admin("DELETE", f"/{TENANT}/vnis/{vni}/members/{made.bob.node}")
        made.push_policy(GRANTS | {"allow": [*GRANTS["allow"], DISCARD]})
        made.up(*made.hosts)
        wait_for("alice's VNIs", lambda: len(made.alice.status().get("vnis", ())) == 3)
        wait_for("bob's VNI", lambda: [vni["name"] for vni in made.bob.status().get("vnis", ())] == ["twin"])
        yield made
        made.alice.stop()  # not killed: it takes its namespaces' names along


def vni_of(host: Host, name: str) -> dict[str, str]:
    return next(vni for vni in host.status()["vnis"] if vni["name"] == name)


def inside(host: Host, vni: str, *command: str) -> subprocess.CompletedProcess[str]:
    state = str(host.state.directory)
    return host.run(sys.executable, "-m", "kairos_cli.main", "exec", "--state", state, vni, "--", *command)


def drops(host: Host) -> int:
    return sum(count for name, count in host.status()["counters"].items() if name.startswith("drop_"))


def test_nothing_that_root_sends_in_one_vni_reaches_a_member_of_another(overlay: Overlay, tmp_path: Path) -> None:
    alice, bob = overlay.alice, overlay.bob
    target, own = (
        str(vni_of(host, name)["addresses"][0]).split("/")[0] for host, name in ((bob, "twin"), (alice, "office"))
    )
    tun, seen = vni_of(alice, "office")["interface"], tmp_path / "seen"
    with seen.open("w") as out:
        watch = subprocess.Popen(("ip", "netns", "exec", bob.namespace, sys.executable, "-c", WATCH), stdout=out)
        try:
            wait_for("the watch", lambda: "ready" in seen.read_text())
            before = drops(alice) + drops(overlay.gateway)
            crafted = [
                (own, "10.7.0.250", 64, 0), (target, "10.7.0.250", 64, 0), ("10.8.0.2", "10.7.0.250", 64, 0),
                (own, "10.7.0.250", 1, 0), (own, "10.7.0.250", 64, 0x2000), (own, "10.7.0.250", 64, 0x10),
                (own, "224.0.0.1", 64, 0), (own, "255.255.255.255", 64, 0),
            ]  # fmt: skip
            for source, to, ttl, fragment in crafted:
                inside(alice, "office", "ip", "route", "replace", to, "dev", tun)
                sent = inside(alice, "office", sys.executable, "-c", SEND, source, to, str(ttl), str(fragment), tun)
                assert sent.returncode == 0, sent.stderr
            wait_for("the drops", lambda: drops(alice) + drops(overlay.gateway) >= before + len(crafted))
            assert "leaked" not in seen.read_text()
            source, tun = str(vni_of(alice, "twin")["addresses"][0]).split("/")[0], vni_of(alice, "twin")["interface"]
            inside(alice, "twin", sys.executable, "-c", SEND, source, target, "64", "0", tun)
            wait_for(
                "what is meant to arrive, else the watch would prove nothing", lambda: "leaked" in seen.read_text()
            )
        finally:
            watch.kill()
            watch.wait()
