"""The audit: how fast events come from a node to a signed head, what is lost or doubled, and what tampering goes unseen.

A real fabric in workerd. Each round sends its events and times them, then as many more with the control Worker
killed in the middle; the node repeats what it does not know to have arrived, as its spool does. Both times the log is
exported and proven, and in the end tampered with in every way there is.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from bench.rounds import Rounds
from fabric_host import TENANT, FabricHost, client_of, default_provider, running_fabric
from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.audit.head import SealedSegment, SignedHead
from kairos.audit.verification import CheckHead, examine
from kairos.errors import KairosError
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.admin import AdminClient, at
from kairos_cli.audit_export import checker
from kairos_node.state import Identity, NodeState

_EVENTS, _QUICK_EVENTS = 10_000, 1_000
_BATCH = 250  # what a spool sends at once
_PATIENCE_S = 300


def main() -> None:
    rounds = Rounds("audit", __doc__)
    count = _QUICK_EVENTS if rounds.quick else _EVENTS
    with tempfile.TemporaryDirectory() as folder, running_fabric(Path(folder) / "fabric") as host:
        host.tenant(TENANT)
        node = asyncio.run(host.first_gateway(TENANT, NodeState(Path(folder) / "node"), default_provider()))
        admin = AdminClient(host.operator)
        check = checker(parse_certificate_untrusted(host.operator.root_certificate))
        for number in rounds:
            _measure(rounds, host, node, admin, check, f"round.{number}", count)
    rounds.finish()


def _measure(
    rounds: Rounds, host: FabricHost, node: Identity, admin: AdminClient, check: CheckHead, name: str, count: int
) -> None:
    for kill in (False, True):
        kind = f"{name}.killed" if kill else name
        sent = [Event(os.urandom(16).hex(), 1.0 + at, "", "", kind) for at in range(count)]
        started = time.monotonic()
        asyncio.run(_send(host, node, sent, kill))
        segments = _sealed(host, admin, kind, count)
        if not kill:
            rounds.add("events_per_s", count / (time.monotonic() - started), "events/s")
        found = Counter(event.id for event in _events(segments, kind))
        rounds.add("audit_missing", len({event.id for event in sent} - set(found)), "events")
        rounds.add("audit_duplicate", sum(found.values()) - len(found), "events")
    newest = segments[-1].head
    began = time.monotonic()
    report = examine(segments, newest, [segments[0].head], check)
    rounds.add("verify_events_per_s", report.events / (time.monotonic() - began), "events/s")
    rounds.add("findings_untampered", len(report.findings), "findings")
    unseen = [name for name, bad in _tampered(segments) if not examine(bad, newest, [segments[0].head], check).findings]
    rounds.add("tamper_undetected", len(unseen), "kinds")


async def _send(host: FabricHost, node: Identity, events: Sequence[Event], kill: bool) -> None:
    """As a spool: batch by batch, a batch again until the fabric has said that it took it."""
    batches = [list(events[start : start + _BATCH]) for start in range(0, len(events), _BATCH)]
    async with client_of(node) as client:
        for number, batch in enumerate(batches):
            if kill and number == len(batches) // 2:
                host.fabric.kill("control")
                await asyncio.to_thread(host.fabric.restart, "control")
            while True:
                try:
                    await client.send_events(batch)
                    break
                except (ConnectionError, ProblemError):
                    await asyncio.sleep(0.1)


def _sealed(host: FabricHost, admin: AdminClient, kind: str, count: int) -> list[SealedSegment]:
    """The whole log, once a head covers so many events of that kind, or nothing more comes."""
    segments: list[SealedSegment] = []
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        host.sweep(TENANT)
        newest = admin.get(at(TENANT, "audit", "head"), SignedHead)
        while not segments or segments[-1].head.size < newest.size:
            first = segments[-1].head.size if segments else 0
            segments.append(admin.get(at(TENANT, "audit", "segments", str(first)), SealedSegment))
        if sum(1 for _ in _events(segments, kind)) >= count:
            return segments
        time.sleep(0.1)
    raise KairosError(f"{count} events were not under a head after {_PATIENCE_S} s")


def _events(segments: Sequence[SealedSegment], kind: str) -> Iterator[Event]:
    for segment in segments:
        for line in segment.lines.splitlines():
            event = msgspec.json.decode(line, type=Event)
            if event.kind == kind:
                yield event


def _tampered(segments: Sequence[SealedSegment]) -> Iterator[tuple[str, list[SealedSegment]]]:
    """(what was done, the export after it)."""
    target = max(range(len(segments)), key=lambda at: len(segments[at].lines))
    lines = segments[target].lines.splitlines(keepends=True)
    middle = len(lines) // 2
    edits: dict[str, Callable[[list[bytes]], object]] = {
        "edited": lambda part: part.__setitem__(middle, part[middle].replace(b'"at"', b'"At"')),
        "removed": lambda part: part.pop(middle),
        "inserted": lambda part: part.insert(middle, part[0].replace(b'"id":"', b'"id":"f')),
        "repeated": lambda part: part.append(part[0]),
        "reordered": lambda part: part.reverse(),
        "cut": lambda part: part.__delitem__(slice(middle, None)),
    }
    for name, edit in edits.items():
        part = list(lines)
        edit(part)
        changed = list(segments)
        changed[target] = msgspec.structs.replace(segments[target], lines=b"".join(part))
        yield name, changed
    yield "tail cut off", list(segments[:-1])
    yield "segment removed", [*segments[:target], *segments[target + 1 :]]
    head = msgspec.structs.replace(segments[target].head, root=bytes(32))
    yield (
        "head replaced",
        [
            *segments[:target],
            msgspec.structs.replace(segments[target], head=head),
            *segments[target + 1 :],
        ],
    )


if __name__ == "__main__":
    main()
