"""A device joins and leaves a VNI while it is up: its tunnel and its other VNIs do not notice."""

from __future__ import annotations

import re
import subprocess

from overlay import TENANT, Host, Overlay, wait_for

VAULT = {"name": "vault", "prefixes": ["10.9.0.0/24"]}


def vnis(host: Host) -> list[str]:
    return [vni["name"] for vni in host.status().get("vnis", ())]


def test_joining_and_leaving_a_vni_disturbs_no_other(overlay: Overlay) -> None:
    overlay.up(overlay.gateway, overlay.alice)
    office = overlay.address_of(overlay.gateway)
    assert overlay.alice.reaches(office)
    session = overlay.alice.tunnel()["session"]
    stream = subprocess.Popen(
        ("ip", "netns", "exec", overlay.alice.namespace, "ping", "-i", "0.02", "-q", office),
        stdout=subprocess.PIPE,
        text=True,
    )
    overlay.fabric.admin("POST", f"/{TENANT}/vnis", VAULT)
    try:
        member = f"/{TENANT}/vnis/vault/members/{overlay.alice.node}"
        overlay.fabric.admin("PUT", member, {})
        wait_for("the new VNI", lambda: "vault" in vnis(overlay.alice))
        wait_for("traffic in it", lambda: overlay.alice.reaches("10.9.0.1"))
        overlay.fabric.admin("DELETE", member)
        wait_for("the end of the VNI", lambda: "vault" not in vnis(overlay.alice))
        assert not overlay.alice.reaches("10.9.0.1")
        assert overlay.alice.tunnel()["session"] == session
    finally:
        overlay.fabric.admin("DELETE", f"/{TENANT}/vnis/vault")
        stream.send_signal(2)
        shown = stream.communicate()[0]
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", shown)[0])
    assert sent - received <= 1, shown  # the one that was on its way when ping was told to stop
