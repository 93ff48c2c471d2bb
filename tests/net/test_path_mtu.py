"""Between real daemons: a path of 1280 bytes that says nothing of it, and one of 9000 (docs/protocol.md §7, Path MTU)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kairos.constants import MTU_BASE, MTU_PRECISION
from kairos.wire.datagram import DATA_OVERHEAD
from overlay import TENANT, Host, Overlay, serving, sh, wait_for

NARROW, WIDE = 1_280, 9_000
UDP_IPV4 = 28
CURL = ("curl", "-sS", "-o", "/dev/null", "-m", "20", "-w", "%{http_code}")


@contextmanager
def black_hole(*hosts: Host) -> Iterator[None]:
    """Datagrams of the data plane that are larger vanish where they arrive: no ICMP tells of it, and none is joined."""
    for host in hosts:
        host.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "gro", "off")
        host.run("nft", "add table inet hole; add chain inet hole in { type filter hook input priority 0; }")
        for port in ("sport", "dport"):
            host.run("nft", f"add rule inet hole in udp {port} 7843 meta length > {NARROW} drop")
    try:
        yield
    finally:
        for host in hosts:
            host.run("nft", "delete table inet hole")
            host.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "on", "gro", "on")


@contextmanager
def jumbo_links(*hosts: Host) -> Iterator[None]:
    """Both ends of each host's link."""

    def set_all(mtu: int) -> None:
        for host in hosts:
            port = host.run("cat", "/sys/class/net/eth0/iflink").stdout.strip()
            name = sh(f"ip -o link | sed -n 's/^{port}: \\([^@:]*\\).*/\\1/p'").stdout.strip()
            sh(f"ip link set dev {name} mtu {mtu} && ip -n {host.namespace} link set dev eth0 mtu {mtu}")

    set_all(WIDE)
    try:
        yield
    finally:
        set_all(1_500)


def set_vni_mtu(overlay: Overlay, mtu: int) -> None:
    path = f"/{TENANT}/vnis/office"
    record = overlay.fabric.admin("GET", path)
    changed = {
        name: record[name] for name in ("name", "prefixes", "dns_suffix", "routes", "selectors") if name in record
    }
    overlay.fabric.admin("PUT", path, changed | {"mtu": mtu})


def test_a_path_that_swallows_what_is_larger_than_1280(overlay: Overlay) -> None:
    """TCP both ways is cut to fit; the sender of a ping that must not be fragmented is told."""
    alice, gateway = overlay.alice, overlay.gateway
    with black_hole(alice, gateway), serving(gateway.namespace):
        overlay.up(gateway, alice)
        wait_for("the direct path", lambda: alice.tunnel()["path"] == "direct")
        wait_for("the path's size", lambda: 0 < alice.tunnel()["datagram_max"] <= NARROW - UDP_IPV4)
        address = overlay.address_of(gateway)
        assert alice.run(*CURL, f"http://{address}:8080/protocol.md").stdout == "200"
        told = alice.run("ping", "-c2", "-W5", "-M", "do", "-s", "1300", address)
        [mtu, *_] = re.findall(r"Frag needed and DF set \(mtu = (\d+)\)", told.stdout)
        assert MTU_BASE <= int(mtu) + DATA_OVERHEAD <= NARROW - UDP_IPV4
        assert alice.run("ping", "-c1", "-W5", "-s", "1100", address).returncode == 0
        assert alice.tunnel()["path"] == "direct"


def test_a_path_of_9000_bytes_is_found(overlay: Overlay) -> None:
    alice, gateway = overlay.alice, overlay.gateway
    with jumbo_links(alice, gateway):
        set_vni_mtu(overlay, WIDE)
        try:
            overlay.up(gateway, alice)
            wait_for("the path's size", lambda: alice.tunnel().get("datagram_max", 0) > WIDE - UDP_IPV4 - MTU_PRECISION)
            address = overlay.address_of(gateway)
            assert alice.reaches(address)
            # The first packet of a flow waits for its verdict only if it is small, so more follow.
            ping = ("ping", "-c4", "-W1", "-i0.2", "-M", "do", "-s", "8800", address)
            wait_for("large packets in one piece", lambda: alice.run(*ping).returncode == 0)
        finally:
            set_vni_mtu(overlay, 1_380)
