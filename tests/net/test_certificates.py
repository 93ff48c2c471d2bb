"""A key that was rotated out proves nobody any more, and who rotates keeps its connections."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

from kairos_node.crypto import provider_named
from overlay import TENANT, Host, Overlay, wait_for


def serial_of(host: Host) -> str:
    return host.state.identity(provider_named("cryptography"), time.time()).certificate.serial


def revoke(overlay: Overlay, serial: str) -> None:
    words = (
        "certificate",
        "revoke",
        serial,
        "--reason",
        "test",
        "--tenant",
        TENANT,
        "--dir",
        overlay.folder / "fabric",
    )
    subprocess.run((sys.executable, "-m", "kairos_cli.main", *words), check=True, capture_output=True, timeout=60)


def revoked_in_use(overlay: Overlay, host: Host) -> None:
    """Returns when the host has another certificate."""
    old = serial_of(host)
    revoke(overlay, old)
    host.await_line(f"certificate {old} of {host.node} is refused in 0 s")
    wait_for("another key", lambda: serial_of(host) != old)


def test_a_rotation_replaces_the_tunnel_before_the_old_certificate_is_refused(overlay: Overlay) -> None:
    overlay.up(*overlay.hosts)
    alice, gateway = overlay.alice, overlay.gateway
    address = overlay.address_of(gateway)
    wait_for("traffic", lambda: alice.reaches(address))
    session, old = alice.tunnel()["session"], serial_of(alice)
    stream = subprocess.Popen(
        ("ip", "netns", "exec", alice.namespace, "ping", "-i", "0.02", "-q", address), stdout=subprocess.PIPE, text=True
    )
    alice.tell("rotate")
    wait_for("another tunnel", lambda: alice.tunnel().get("session") not in (None, session))
    assert alice.reaches(address)
    stream.send_signal(signal.SIGINT)
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", stream.communicate()[0])[0])
    assert sent - received <= 5, (sent, received)
    gateway.await_line(f"certificate {old} of {alice.node} is refused in")
    (kept,) = [each for each in gateway.state.refused_certificates if each.serial == old]
    assert kept.refused_from > time.time() - 60


def test_a_certificate_that_the_operator_revokes_ends_its_tunnel_and_the_device_takes_another_key(
    overlay: Overlay,
) -> None:
    overlay.up(*overlay.hosts)
    alice, gateway = overlay.alice, overlay.gateway
    address = overlay.address_of(gateway)
    wait_for("traffic", lambda: alice.reaches(address))
    for host in (alice, gateway):
        revoked_in_use(overlay, host)
        wait_for("traffic", lambda: alice.reaches(address))
    gateway.kill()
    gateway.start()
    wait_for("traffic after a restart", lambda: alice.reaches(address))
