"""T6: real traffic between real daemons, over every path (docs/protocol.md §7)."""

from __future__ import annotations

import pytest

from overlay import WEB, Overlay, serving, sh, wait_for

CURL = ("curl", "-sS", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}")


def web(overlay: Overlay) -> str:
    return overlay.gateway.namespace.replace("gateway", "web")


def test_through_the_relay_then_direct_and_back(overlay: Overlay) -> None:
    alice, gateway = overlay.alice, overlay.gateway
    alice.config.write_text('path = "relay"\n')
    overlay.up(gateway, alice)
    address = overlay.address_of(gateway)
    assert alice.tunnel()["path"] == "relay"
    assert alice.reaches(address)
    alice.tell("path", mode="auto")
    wait_for("the direct path", lambda: alice.tunnel()["path"] == "direct")
    assert alice.reaches(address)
    gateway.run("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }")
    gateway.run("nft", "add rule inet cut in udp dport 7843 drop")
    try:
        wait_for("the way back to the relay", lambda: alice.tunnel()["path"] == "relay")
        wait_for("traffic through the relay", lambda: alice.reaches(address))
    finally:
        gateway.run("nft", "delete table inet cut")
    wait_for("the direct path again", lambda: alice.tunnel()["path"] == "direct")
    assert alice.reaches(address)


def test_direct_mode_sends_nothing_through_the_relay(overlay: Overlay) -> None:
    overlay.alice.config.write_text('path = "direct"\n')
    overlay.up(overlay.gateway, overlay.alice)
    wait_for("the direct path", lambda: overlay.alice.tunnel()["path"] == "direct")
    assert overlay.alice.reaches(overlay.address_of(overlay.gateway))
    assert overlay.gateway.status()["counters"].get("rx_relay_datagrams", 0) == 0


@pytest.mark.parametrize("mode", ["relay", "auto"])
def test_a_web_server_behind_the_gateway(overlay: Overlay, mode: str) -> None:
    overlay.alice.config.write_text(f'path = "{mode}"\n')
    overlay.up(overlay.gateway, overlay.alice)
    with serving(web(overlay)):
        assert overlay.alice.run(*CURL, f"http://{WEB}:8080/protocol.md").stdout == "200"


def test_endpoint_to_endpoint_never_touches_the_gateways_kernel(overlay: Overlay) -> None:
    overlay.up(*overlay.hosts)
    bob = overlay.address_of(overlay.bob)
    with serving(overlay.bob.namespace):
        assert overlay.alice.run(*CURL, f"http://{bob}:8080/protocol.md").stdout == "200"
    assert overlay.gateway.status()["counters"]["turned_around"] > 0


def test_a_denied_attempt_fails_at_once_and_names_its_rule(overlay: Overlay) -> None:
    overlay.up(overlay.gateway, overlay.alice)
    refused = overlay.alice.run(*CURL, f"telnet://{WEB}:23")
    assert "Failed to connect" in refused.stderr
    overlay.alice.await_line("telnet is forbidden (deny:no-telnet)")
    flows = overlay.alice.tell("flows")
    assert any(flow["rule"] == "deny:no-telnet" and flow["verdict"] == "deny" for flow in flows)


def test_ipv6_crosses_too(overlay: Overlay) -> None:
    overlay.up(overlay.gateway, overlay.alice)
    assert overlay.alice.reaches("fd07::1")


def test_a_rekey_loses_nothing(overlay: Overlay) -> None:
    overlay.gateway.config.write_text("rekey_after_s = 1.0\n")
    overlay.up(overlay.gateway, overlay.alice)
    address = overlay.address_of(overlay.gateway)
    assert overlay.alice.reaches(address)  # the flow is known: from here on no packet has an excuse
    shown = overlay.alice.run("ping", "-i", "0.02", "-c", "200", "-q", address).stdout
    assert " 0% packet loss" in shown
    assert overlay.alice.tunnel()["epoch"] >= 3


def test_sigterm_leaves_nothing_behind(overlay: Overlay) -> None:
    """Not even what an earlier daemon left that was killed."""
    overlay.up(*overlay.hosts)
    overlay.alice.kill()
    overlay.gateway.kill()
    overlay.up(overlay.gateway, overlay.alice)
    assert overlay.alice.reaches(overlay.address_of(overlay.gateway))
    for host in overlay.hosts:
        assert "kairos" in host.traces()
        assert host.stop() == 0, "\n".join(host.lines[-10:])
        assert host.traces() == ""
        assert not host.state.socket.exists()


def test_a_revoked_device_is_cut_by_the_push(overlay: Overlay) -> None:
    """Its session would live for minutes. Last here: bob does not come back."""
    overlay.up(overlay.gateway, overlay.bob)
    wait_for("traffic", lambda: overlay.bob.reaches(overlay.address_of(overlay.gateway)))
    overlay.fabric.admin("DELETE", f"/acme/devices/{overlay.bob.node}")
    wait_for("the end of its tunnel", lambda: not overlay.gateway.status()["tunnels"])
    overlay.bob.await_line("is revoked")
    wait_for("the end of its daemon", lambda: not overlay.bob.running)
    assert sh(f"ip netns exec {overlay.bob.namespace} ip -o link | grep kairos", check=False).stdout == ""
