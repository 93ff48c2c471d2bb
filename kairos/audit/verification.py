"""What an export of a tenant's audit log proves, offline: nothing edited, removed, inserted or reordered; nothing cut off and
no other history, as far as there are heads that were kept elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import msgspec

from kairos.audit.event import Event
from kairos.audit.head import RETIRED, SealedSegment, SignedHead
from kairos.audit.merkle import HASH_BYTES, Tree, leaf_hash
from kairos.errors import UNREADABLE, BadMessage, Refused

CheckHead = Callable[[SignedHead], None]  # the signature, up to the root certificate; raises Refused or BadMessage


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong. code: what; at: the first position it concerns; text says it to a person."""

    code: str
    at: int
    text: str


@dataclass(slots=True)
class Report:
    """events: how many were read; proven: how many stand, from the first on, under a head whose signature verifies; retired: how many
    of those, from the first on, had lost their text to the tenant's retention, as the log itself says, and retired_before: all
    of them were sealed before this Unix time."""

    tenant: str = ""
    events: int = 0
    proven: int = 0
    heads: int = 0
    retired: int = 0
    retired_before: int = 0
    agreeing: list[SignedHead] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def found(self, code: str, at: int, text: str) -> None:
        self.findings.append(Finding(code, at, text))


@dataclass(slots=True)
class _Reading:
    """What is remembered from segment to segment. silent: those without text, from and up to; retired: what the log says of them."""

    ids: dict[str, int] = field(default_factory=dict)
    silent: list[tuple[int, int]] = field(default_factory=list)
    retired: int = 0
    retired_before: int = 0

    def take_retirement(self, event: Event) -> None:
        """The fabric's word only: a node's events bear the node's name."""
        size, before = event.detail.get("size"), event.detail.get("before")
        if event.kind == RETIRED and event.source == "fabric" and isinstance(size, int) and isinstance(before, int):
            self.retired, self.retired_before = max(self.retired, size), max(self.retired_before, before)


def examine(
    segments: Iterable[SealedSegment], last: SignedHead, kept: Iterable[SignedHead], check: CheckHead
) -> Report:
    """segments: the export, in order; last: its newest head; kept: heads that were kept elsewhere."""
    report, tree, reading = Report(last.tenant), Tree(), _Reading()
    for segment in segments:
        if segment.first != tree.size:
            report.found(
                "removed", tree.size, f"events {tree.size} to {segment.first - 1} are missing: a whole segment"
            )
            break
        if not _examine_segment(report, tree, reading, segment, check):
            break
    _examine_retirement(report, reading)
    if _signed(report, last, "the newest head", check):
        _compare(report, tree, last, "the newest head")
    for head in sorted(kept, key=lambda each: each.size):
        what = f"the kept head of {head.size} events"
        if _signed(report, head, what, check) and _compare(report, tree, head, what):
            report.agreeing.append(head)
    return report


def _examine_segment(report: Report, tree: Tree, reading: _Reading, segment: SealedSegment, check: CheckHead) -> bool:
    """False: the tree cannot go on behind this one."""
    first, head = segment.first, segment.head
    leaves = [segment.leaves[at : at + HASH_BYTES] for at in range(0, len(segment.leaves), HASH_BYTES)]
    lines = segment.lines.split(b"\n")
    unfinished = lines.pop()
    if unfinished:
        lines.append(unfinished)
    report.events += len(lines)
    _signed(report, head, f"the head of the segment from {first} on", check)
    report.heads += 1
    if head.size <= first or len(segment.leaves) != (head.size - first) * HASH_BYTES:
        report.found(
            "bad-leaves", first, f"the segment from {first} on has {len(leaves)} leaves, its head says another number"
        )
        return False
    for leaf in leaves:
        tree.append(leaf)
    clean = len(report.findings)
    if tree.root() != head.root:
        report.found(
            "wrong-root",
            first,
            f"events {first} to {head.size - 1}: their leaves are not those that the head was signed over",
        )
    if lines:
        report.findings += _differences(first, leaves, lines)
        report.findings += _strange_events(report.tenant, first, lines, reading)
    else:
        reading.silent.append((first, head.size))
    if len(report.findings) == clean and report.proven == first:
        report.proven = head.size
    return True


def _signed(report: Report, head: SignedHead, what: str, check: CheckHead) -> bool:
    try:
        check(head)
    except (Refused, BadMessage) as error:
        report.found("bad-head", head.size, f"{what}: {error}")
        return False
    if head.tenant != report.tenant:
        report.found("bad-head", head.size, f"{what} is of tenant {head.tenant}, not of {report.tenant}")
        return False
    return True


def _compare(report: Report, tree: Tree, head: SignedHead, what: str) -> bool:
    if head.size > tree.size:
        report.found(
            "truncated", tree.size, f"{what} covers events up to {head.size - 1}, the export ends before {tree.size}"
        )
        return False
    if tree.root(head.size) != head.root:
        since = max((each.size for each in report.agreeing), default=0)
        report.found(
            "rewritten",
            since,
            f"{what} was signed over another history: it differs between events {since} and {head.size - 1}",
        )
        return False
    return True


def _differences(first: int, leaves: Sequence[bytes], lines: Sequence[bytes]) -> Iterator[Finding]:
    """Where the lines are not those that the leaves are of."""
    hashes = [leaf_hash(line) for line in lines]
    blocks = [
        block for block in SequenceMatcher(None, leaves, hashes, autojunk=False).get_opcodes() if block[0] != "equal"
    ]
    gone = {leaves[at]: first + at for _, start, end, _, _ in blocks for at in range(start, end)}
    came = {at for _, _, _, start, end in blocks for at in range(start, end)}
    place = {leaf: first + at for at, leaf in enumerate(leaves)}
    for at in sorted(came):
        position = place.get(hashes[at])
        if position is not None:
            came.remove(at)
            moved = gone.pop(hashes[at], None) is not None
            text = f"the event of position {position} stands at line {at + 1} of the segment from {first} on"
            yield Finding("reordered" if moved else "inserted", position, text if moved else f"{text}, once more")
    for _, start, end, line, stop in blocks:
        missing = [first + at for at in range(start, end) if leaves[at] in gone]
        strange = [at for at in range(line, stop) if at in came]
        for position, _ in zip(missing, strange, strict=False):
            yield Finding("edited", position, f"event {position} is not the one that was recorded")
        for position in missing[len(strange) :]:
            yield Finding("removed", position, f"event {position} is missing")
        for at in strange[len(missing) :]:
            yield Finding("inserted", first + start, f"line {at + 1} of the segment from {first} on was never recorded")


def _examine_retirement(report: Report, reading: _Reading) -> None:
    """A segment without text is one that was retired when the log says so further on; else somebody has removed it."""
    for first, size in reading.silent:
        if size <= reading.retired and first == report.retired:
            report.retired, report.retired_before = size, reading.retired_before
        else:
            report.proven = min(report.proven, first)
            report.found(
                "removed",
                first,
                f"events {first} to {size - 1} are missing, and the log does not say that they were retired",
            )


def _strange_events(tenant: str, first: int, lines: Sequence[bytes], reading: _Reading) -> Iterator[Finding]:
    """Lines that the log should never have taken."""
    for position, line in enumerate(lines, first):
        try:
            event = msgspec.json.decode(line, type=Event)
        except UNREADABLE:
            yield Finding("not-an-event", position, f"event {position} is not the JSON of an event")
            continue
        if event.tenant != tenant:
            yield Finding("foreign", position, f"event {position} is of tenant {event.tenant}")
        before = reading.ids.setdefault(event.id, position)
        if before != position:
            yield Finding("twice", position, f"event {position} has the id of event {before}")
        reading.take_retirement(event)
