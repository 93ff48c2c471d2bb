"""Issue: a device is cut off everywhere in under a second, with a signed receipt from every place that enforces it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from overlay import GRANTS, TENANT, Host, Overlay, wait_for


def command(overlay: Overlay, verb: str, node: str) -> tuple[int, dict[str, Any]]:
    """`kairos isolate|release` as a person runs it: exit status and document."""
    arguments = (
        verb,
        node,
        "--reason",
        "stolen",
        "--tenant",
        TENANT,
        "--dir",
        str(overlay.folder / "fabric"),
        "--json",
    )
    done = subprocess.run(
        (sys.executable, "-m", "kairos_cli.main", *arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def measured(host: Host) -> dict[str, str]:
    """What Prometheus reads there: values by name and labels."""
    lines = host.run("curl", "-sS", "http://127.0.0.1:9464/metrics").stdout.splitlines()
    return {name: value for name, _, value in (line.rpartition(" ") for line in lines) if not name.startswith("#")}


def works(overlay: Overlay, host: Host) -> None:
    host.await_tunnel()
    address = overlay.address_of(overlay.gateway)
    wait_for("traffic", lambda: host.reaches(address))


def test_every_place_enforces_it_and_says_so(overlay: Overlay) -> None:
    overlay.gateway.config.write_text('metrics = "127.0.0.1:9464"\n')
    overlay.up(*overlay.hosts)
    alice, bob = overlay.alice, overlay.bob
    works(overlay, alice)
    works(overlay, bob)
    told = measured(overlay.gateway)
    assert float(told["kairos_handshake_seconds_count"]) >= 2
    assert float(told["kairos_rx_packets_total"]) >= 2
    status, said = command(overlay, "isolate", alice.node)
    assert (status, said["missing"]) == (0, [])
    assert {each["point"] for each in said["points"]} == {"relay", overlay.gateway.node, alice.node, bob.node}
    assert not alice.reaches(overlay.address_of(overlay.gateway))
    assert not alice.tunnel()
    works(overlay, bob)
    assert not bob.reaches(overlay.address_of(alice))
    status, said = command(overlay, "release", alice.node)
    assert (status, said["missing"]) == (0, [])
    works(overlay, alice)
    wait_for("telemetry", lambda: {alice.node, bob.node, overlay.gateway.node} <= set(sampled(overlay)))


def test_restarts_do_not_forget_it(overlay: Overlay) -> None:
    """The gateway was away, the device starts again, the fabric is killed: and it stays out until it is released."""
    overlay.up(overlay.gateway, overlay.alice)
    alice, gateway = overlay.alice, overlay.gateway
    works(overlay, alice)
    gateway.kill()
    status, said = command(overlay, "isolate", alice.node)
    assert (status, said["missing"]) == (1, [gateway.node])
    overlay.fabric.fabric.kill("control")
    overlay.fabric.fabric.restart("control")
    gateway.start()
    gateway.await_line(f"{alice.node} is isolated")
    alice.kill()
    alice.start()
    alice.await_line("isolated")
    assert not alice.tunnel()
    status, said = command(overlay, "isolate", alice.node)  # again: the gateway's receipt is there now
    assert (status, said["missing"]) == (0, [])
    assert command(overlay, "release", alice.node)[0] == 0
    works(overlay, alice)


SPOOFING = {"id": "spoofing", "over": {"spoofed": 20}, "reason": "not its own addresses"}


def test_policy_isolates_whoever_sends_under_a_foreign_address(overlay: Overlay) -> None:
    overlay.push_policy(GRANTS | {"isolation": [SPOOFING]})
    try:
        overlay.up(*overlay.hosts)
        alice, gateway = overlay.alice, overlay.gateway
        works(overlay, alice)
        address = overlay.address_of(gateway)
        alice.run("ip", "addr", "add", "10.99.0.1/32", "dev", "lo")
        spoof = ("ping", "-q", "-c", "200", "-i", "0.02", "-W1", "-I", "10.99.0.1", address)
        assert alice.run(*spoof).returncode == 1
        gateway.await_line("(isolation:spoofing)")
        alice.await_line(f"{alice.node} is isolated: not its own addresses")
        works(overlay, overlay.bob)
        (event,) = wait_for("the audit", lambda: events(overlay, "device.isolated", alice.node, "policy"))
        assert event["detail"]["reported_by"] == gateway.node
        assert command(overlay, "release", alice.node)[0] == 0
        works(overlay, alice)
    finally:
        overlay.push_policy(GRANTS)


def events(overlay: Overlay, kind: str, subject: str, actor: str) -> list[dict[str, Any]]:
    listed = overlay.fabric.admin("GET", f"/{TENANT}/audit?kind={kind}")["items"]
    return [each for each in listed if (each["subject"], each["actor"]) == (subject, actor)]


def sampled(overlay: Overlay) -> dict[str, dict[str, Any]]:
    """What `kairos top --json` shows, by node."""
    folder = str(overlay.folder / "fabric")
    words = (sys.executable, "-m", "kairos_cli.main", "top", "--once", "--json", "--tenant", TENANT, "--dir", folder)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return {record["node"]: record["sample"] for record in json.loads(done.stdout)}
