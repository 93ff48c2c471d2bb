"""Both ends of a tunnel tell of the flows that passed it, and whoever keeps one back is found out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any

import msgspec

from kairos.api.admin import Page
from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW, FlowWindow
from kairos.audit.reconciliation import reconcile
from kairos_cli.admin import AdminClient, at
from overlay import TENANT, Overlay, wait_for


def reconciled(overlay: Overlay, began: float) -> tuple[int, dict[str, Any]]:
    """`kairos audit reconcile` as a person runs it: exit status and document."""
    words = ("audit", "reconcile", "--settle", "1s", "--since", f"{math.ceil(time.time() - began)}s", "--json")
    where = ("--tenant", TENANT, "--dir", str(overlay.folder / "fabric"))
    done = subprocess.run(
        (sys.executable, "-m", "kairos_cli.main", *words, *where),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_ends_of_every_flow_agree_and_one_that_is_silent_shows(overlay: Overlay) -> None:
    gateway, alice, bob = overlay.hosts
    overlay.up(*overlay.hosts)
    for host in (alice, bob):
        host.await_tunnel()
    wait_for("the gateway", lambda: alice.reaches(overlay.address_of(gateway)))
    began = time.time()
    wait_for("bob", lambda: alice.reaches(overlay.address_of(bob)))
    for host in (alice, bob, gateway):
        host.stop()
    overlay.up(*overlay.hosts)  # what was not delivered in time comes with the next start
    admin = AdminClient(overlay.fabric.operator)

    def told() -> list[Event]:
        page = admin.get(at(TENANT, "audit"), Page, kind=LEDGER_WINDOW, since=str(int(began)), limit=500)
        return msgspec.convert(page.items, list[Event])

    everybody = {gateway.node, alice.node, bob.node}
    wait_for("word of all three", lambda: {event.source for event in told()} == everybody, 60)
    wait_for("the moment that settles it", lambda: reconciled(overlay, began)[1]["agreed"] >= 4, 60)
    assert reconciled(overlay, began)[0] == 0
    events = told()
    rows = [row for event in events for row in msgspec.convert(event.detail, FlowWindow).rows]
    through = [row for row in rows if row.destination == overlay.address_of(bob)]
    assert {(row.device, row.peer) for row in through} == {(alice.node, bob.node)}
    answered = [row for row in through if row.packets[0] and row.packets[1]]  # the first on a busy machine may not be
    assert len(answered) >= 3
    assert all(row.end for row in answered)
    assert {bool(row.session) for row in answered} == {True, False}  # the gateway knows whose tunnel it was
    for liar in (alice, bob):
        honest = [event for event in events if event.source != liar.node]
        found = reconcile(honest, began, time.time()).discrepancies
        assert {(each.kind, each.node, each.told_by) for each in found} == {("silent", liar.node, gateway.node)}
