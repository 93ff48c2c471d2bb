"""The audit: how fast events come from a node to a signed head, what a storm of kills loses, what tampering goes unseen, who may too much.

A real fabric in workerd for each round. First a gateway sends all its events as fast as the fabric takes them. Then a gateway and an
endpoint record as many with their daemons' own spool, while fabric, relay and both of them are killed and stopped at random
moments. The log is exported and verified, tampered with in every way there is, and verified again. Beside that the whole scope
matrix is tried: every route of the API by every kind of caller.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scope_matrix import violations
from storm import await_all, enrolled_sources, events_of, storm

from bench.rounds import Rounds
from bench.tampering import undetected
from control_plane import ControlPlane
from fabric_host import TENANT, FabricHost, client_of, default_provider, running_fabric
from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.audit.head import SignedHead
from kairos.audit.verification import CheckHead
from kairos.crypto.suites import KR1
from kairos.errors import KairosError
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.admin import AdminClient, at
from kairos_cli.audit_export import checker, export, read_head, verify
from kairos_node.state import Identity

_EVENTS, _QUICK_EVENTS = 10_000, 1_000
_FAULTS, _QUICK_FAULTS = 16, 8
_BATCH = 250  # what a spool sends at once
_PATIENCE_S = 120.0
_BURST = "bench.event"


def main() -> None:
    rounds = Rounds("audit", __doc__)
    for number in rounds:
        with tempfile.TemporaryDirectory() as folder:
            _measure(rounds, Path(folder), number)
        tried, found = _scopes()
        rounds.say(f"{tried} calls of the scope matrix")
        rounds.add("scope_violations", len(found), "calls")
    rounds.finish()


def _measure(rounds: Rounds, folder: Path, number: int) -> None:
    count = _QUICK_EVENTS if rounds.quick else _EVENTS
    faults = _QUICK_FAULTS if rounds.quick else _FAULTS
    with running_fabric(folder / "fabric") as host:
        host.tenant(TENANT)
        check = checker(parse_certificate_untrusted(host.operator.root_certificate))
        log = _Log(host, folder / "export", check)
        with enrolled_sources(host, folder, count // 2) as (gateway, sources):
            rounds.add("events_per_s", _burst(host, gateway, log, count), "events/s")
            for source in sources:
                source.start()
            done = storm(host, sources, random.Random(number), faults)
            rounds.say(", ".join(f"{times} x {what}" for what, times in sorted(Counter(done).items())))
            lost = await_all(log.storm_events, sources)
        rounds.add("audit_missing", lost.missing, "events")
        rounds.add("audit_duplicate", lost.duplicate, "events")
        rounds.add("audit_misplaced", lost.misplaced, "events")
        _tamper(rounds, host, log, check)


def _tamper(rounds: Rounds, host: FabricHost, log: _Log, check: CheckHead) -> None:
    """kept: what nodes that were connected all the time hold in the end, and one that went early."""
    newest = read_head(log.folder / "head.json")
    kept = [read_head(min(log.folder.glob("[0-9]*.head.json"))), newest]
    began = time.monotonic()
    report = verify(log.folder, kept, check)
    rounds.add("verify_events_per_s", report.events / (time.monotonic() - began), "events/s")
    rounds.add("findings_untampered", len(report.findings), "findings")
    stolen, foreign = (
        default_provider().signing_key(KR1, seed) for seed in (host.operator.issuer_seed, os.urandom(32))
    )
    unseen = undetected(log.folder, stolen, foreign, kept, check)
    for each in unseen:
        rounds.say(f"not seen: {each}")
    rounds.add("tamper_undetected", len(unseen), "kinds")


class _Log:
    """The tenant's log as an operator has it: exported, and exported again for what is new."""

    def __init__(self, host: FabricHost, folder: Path, check: CheckHead) -> None:
        self.folder = folder
        self._host, self._admin, self._check = host, AdminClient(host.operator), check

    @property
    def size(self) -> int:
        """Under the newest head, of what is sealed now; 0 as long as nothing is."""
        try:
            self._host.sweep(TENANT)
            return self._admin.get(at(TENANT, "audit", "head"), SignedHead).size
        except (OSError, ProblemError):
            return 0

    def storm_events(self) -> list[Event]:
        self._host.sweep(TENANT)
        export(self._admin, TENANT, self.folder, self._check)
        return [event for path in sorted(self.folder.glob("*.jsonl")) for event in events_of(path.read_bytes())]


def _burst(host: FabricHost, node: Identity, log: _Log, count: int) -> float:
    """Events a second, from the first that is sent until a signed head covers the last."""
    before = log.size
    events = [Event(os.urandom(16).hex(), time.time(), "", "", _BURST) for _ in range(count)]
    began = time.monotonic()
    asyncio.run(_send(node, events))
    while log.size < before + count:
        if time.monotonic() - began > _PATIENCE_S:
            raise KairosError(f"{count} events were not under a head after {_PATIENCE_S:.0f} s")
        time.sleep(0.1)
    return count / (time.monotonic() - began)


async def _send(node: Identity, events: Sequence[Event]) -> None:
    """As a spool: batch by batch, a batch again until the fabric has said that it took it."""
    async with client_of(node) as client:
        for start in range(0, len(events), _BATCH):
            while True:
                try:
                    await client.send_events(list(events[start : start + _BATCH]))
                    break
                except (ConnectionError, ProblemError):
                    await asyncio.sleep(0.1)


def _scopes() -> tuple[int, list[str]]:
    plane = ControlPlane()
    try:
        plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
        plane.admin("POST", "/v1/tenants/acme/vnis", {"name": "office", "prefixes": ["10.7.0.0/24"]})
        return violations(plane)
    finally:
        plane.close()


if __name__ == "__main__":
    main()
