"""Names inside a VNI, as programs on a host resolve them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay import GRANTS, TENANT, Host, Overlay, wait_for

TWIN = {"name": "twin", "prefixes": ["10.7.0.0/24"], "dns_suffix": "twin.internal"}
DNS = {
    "id": "dns",
    "from": ["*"],
    "to": ["*"],
    "ports": ["udp/53", "tcp/53"],
    "reason": "policy is not what holds here",
}
ASK = """import dns.message, dns.query, dns.rcode, sys
server, name, kind, over = sys.argv[1:]
try: r = getattr(dns.query, over)(dns.message.make_query(name, kind), server, timeout=2)
except dns.exception.Timeout: sys.exit("no answer")
print(dns.rcode.to_text(r.rcode()), *(record.to_text() for rrset in r.answer for record in rrset))
"""


def vni_of(host: Host, name: str) -> dict[str, Any]:
    return next((vni for vni in host.status().get("vnis", ()) if vni["name"] == name), {})


def address(host: Host, vni: str) -> str:
    return str(vni_of(host, vni)["addresses"][0]).split("/")[0]


def inside(host: Host, vni: str, *command: str) -> subprocess.CompletedProcess[str]:
    state = str(host.state.directory)
    return host.run(sys.executable, "-m", "kairos_cli.main", "exec", "--state", state, vni, "--", *command)


def asked(host: Host, server: str, name: str, kind: str = "A", over: str = "udp") -> str:
    ran = host.run(sys.executable, "-c", ASK, server, name, kind, over)
    return (ran.stdout or ran.stderr).strip()


@pytest.fixture
def named(overlay: Overlay) -> Iterator[Overlay]:
    """alice and bob share lan with their hosts; alice isolates twin, which has the prefix of office, bob does not."""
    overlay.fabric.admin("POST", f"/{TENANT}/vnis", TWIN)
    lan = overlay.fabric.admin("GET", f"/{TENANT}/vnis/lan")
    overlay.fabric.admin("PUT", f"/{TENANT}/vnis/lan", lan | {"dns_suffix": "lan.internal"})
    for host in (overlay.alice, overlay.bob):
        overlay.fabric.admin("PUT", f"/{TENANT}/vnis/twin/members/{host.node}", {})
    overlay.alice.config.write_text('isolate = { twin = "netns" }\n')
    overlay.push_policy(GRANTS | {"allow": [*GRANTS["allow"], DNS]})
    try:
        overlay.up(*overlay.hosts)
        for host, vni in ((overlay.alice, "lan"), (overlay.alice, "twin"), (overlay.bob, "lan")):
            wait_for("names", lambda host=host, vni=vni: vni_of(host, vni).get("dns"))  # type: ignore[misc]
        wait_for("twin", lambda: vni_of(overlay.bob, "twin"))
        yield overlay
    finally:
        overlay.push_policy(GRANTS)
        overlay.fabric.admin("PUT", f"/{TENANT}/vnis/lan", lan)
        overlay.fabric.admin("DELETE", f"/{TENANT}/vnis/twin")
        for host in (overlay.alice, overlay.bob):
            host.stop()  # not killed: it takes its namespaces' names along
            host.config.write_text("")


def test_each_vni_has_names_of_its_own(named: Overlay) -> None:
    alice, bob = named.alice, named.bob
    before = Path("/etc/resolv.conf").read_text()
    twin = address(bob, "twin")

    # In the namespace: by the program's own resolver, in full, by search, and back from the address.
    for name in ("bob.twin.internal", "bob", bob.node):
        found = inside(alice, "twin", "getent", "ahostsv4", name)
        assert found.stdout.split()[:1] == [twin]
    assert inside(alice, "twin", "getent", "hosts", twin).stdout.split() == [twin, "bob.twin.internal"]
    for name in ("bob.lan.internal", "nobody.twin.internal"):
        assert inside(alice, "twin", "getent", "hosts", name).returncode == 2

    # bob's host cannot tell twin from office, so it has no part in it: not an address, a name or an answer.
    apart = vni_of(bob, "twin")
    assert (apart["apart"], apart["dns"], vni_of(bob, "office")["apart"]) == ("office", "", "")
    assert not bob.run("ip", "-o", "-4", "addr", "show", "dev", apart["interface"]).stdout
    assert not inside(alice, "twin", "ping", "-c1", "-W1", twin).stdout.count("bytes from")

    # On the host: at the server of the VNI, which knows no other VNI, no matter how it is asked.
    server, lan = vni_of(alice, "lan"), address(bob, "lan")
    assert server["dns"] == address(alice, "lan")
    assert server["dns_resolver"].startswith("none: ")
    assert any("names under lan.internal are unknown to this host's programs" in line for line in alice.lines)
    for over in ("udp", "tcp"):
        assert asked(alice, server["dns"], "bob.lan.internal", over=over) == f"NOERROR {lan}"
        assert asked(alice, server["dns"], "bob.twin.internal", over=over) == "REFUSED"
        assert asked(alice, server["dns"], "example.com", over=over) == "REFUSED"

    # It serves this host alone, whatever policy lets through to it.
    assert asked(bob, server["dns"], "bob.lan.internal") == "no answer"

    # A new name is known as soon as the network is, and a name goes with its device.
    named.fabric.admin("DELETE", f"/{TENANT}/vnis/lan/members/{bob.node}")
    wait_for("its end", lambda: asked(alice, server["dns"], "bob.lan.internal") == "NXDOMAIN")
    named.fabric.admin("PUT", f"/{TENANT}/vnis/lan/members/{bob.node}", {})
    wait_for("its return", lambda: asked(alice, server["dns"], "bob.lan.internal").startswith("NOERROR "))
    assert Path("/etc/resolv.conf").read_text() == before
