"""Do both ends of every flow tell of it? What one end received with a valid seal, the other must have sent, and recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW, RESTATE_S, WINDOW_ROWS, FlowRow, FlowWindow
from kairos.constants import CLOCK_SKEW_S
from kairos.identity.spiffe import is_gateway
from kairos.policy.input import PROTOCOLS
from kairos.protocol.path import format_address

SETTLE_S = 60  # two windows and the way of their events into the log
MARGIN_S = RESTATE_S + CLOCK_SKEW_S  # so much earlier and later the other end may have told of a flow
# An end may count a packet whole that the other counts in pieces, each with headers.
_SLACK_BYTES, _SLACK = 65_536, 1.25
_ICMP = (1, 58)
ANY_GATEWAY = "any gateway"
"""The node of a discrepancy that any gateway of the tenant should have told of."""
Key = tuple[int, int, tuple[tuple[str, int], tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """kind: hidden (the node's windows go over that time without a word of it), silent (it has told nothing of that time),
    understated (it tells of far fewer bytes than it sent); node: who should have told it, told_by: who did; opened, last: Unix seconds;
    packets, bytes: both directions, by whoever told it."""

    kind: str
    node: str
    told_by: str
    flow: str
    opened: float
    last: float
    packets: int
    bytes: int


@dataclass(slots=True)
class Reconciliation:
    """since, until: Unix seconds, of the windows whose flows were looked up at the other end; agreed, unknown: what of that was
    found there, and what may be among the flows that a full window left out."""

    since: float
    until: float
    windows: int = 0
    flows: int = 0
    agreed: int = 0
    unknown: int = 0
    discrepancies: list[Discrepancy] = field(default_factory=list)


class _Claim(NamedTuple):
    """That `node` must know the flow of `key` too; empty: any gateway."""

    node: str
    key: Key
    row: FlowRow


@dataclass(slots=True)
class _Book:
    """What one node told. full: the windows that had no room for more."""

    until: float = 0.0
    rows: dict[Key, list[FlowRow]] = field(default_factory=lambda: defaultdict(list))
    full: list[tuple[float, float]] = field(default_factory=list)

    def knows(self, key: Key, row: FlowRow) -> bool:
        return any(_overlap(row.opened, row.last, each.opened, each.last) for each in self.rows.get(key, ()))

    def may_have_left_out(self, row: FlowRow) -> bool:
        return any(_overlap(row.opened, row.last, since, until) for since, until in self.full)


def reconcile(events: Iterable[Event], since: float, until: float) -> Reconciliation:
    """events: the LEDGER_WINDOW events from since - MARGIN_S on, in any order. Looked up is what the windows that ended in
    (since, until] tell; until should be SETTLE_S ago, or it is news that has not come yet."""
    books: dict[str, _Book] = defaultdict(_Book)
    claims: dict[tuple[str, str, Key], _Claim] = {}
    result = Reconciliation(since, until)
    filled: dict[tuple[str, float, float], list[int]] = defaultdict(lambda: [0, 0])  # rows, left out
    for event, window in _windows(events):
        book, extent = books[event.source], (window.since, window.until)
        book.until = max(book.until, window.until)
        rows_and_rest = filled[event.source, *extent]
        rows_and_rest[0] += len(window.rows)
        rows_and_rest[1] += window.left_out
        asked = since < window.until <= until
        result.windows += asked
        for row in window.rows:
            result.flows += asked
            for key in _keys(row):
                book.rows[key].append(row)
            for claim in _claims(event.source, row) if asked else ():
                claims[event.source, claim.node, claim.key] = claim
    for (source, begin, end), (rows, left_out) in filled.items():
        if left_out and rows >= WINDOW_ROWS:
            books[source].full.append((begin, end))
    for (told_by, _, _), claim in claims.items():
        _settle(result, books, told_by, claim)
    result.discrepancies.sort(key=lambda each: (each.opened, each.flow))
    return result


def _settle(result: Reconciliation, books: dict[str, _Book], told_by: str, claim: _Claim) -> None:
    row = claim.row
    others = [claim.node] if claim.node else [node for node in books if is_gateway(node) and node != told_by]
    known = [books[node] for node in others if node in books]
    if any(book.knows(claim.key, row) for book in known):
        kind = "understated" if claim.node and _understates(books[told_by], books[claim.node], claim) else ""
    elif any(book.may_have_left_out(row) for book in known):
        result.unknown += 1
        return
    else:
        kind = "hidden" if any(book.until >= row.opened for book in known) else "silent"
    if not kind:
        result.agreed += 1
        return
    node = claim.node or ANY_GATEWAY
    result.discrepancies.append(
        Discrepancy(kind, node, told_by, _text(row), row.opened, row.last, sum(row.packets), sum(row.bytes))
    )


def _understates(teller: _Book, other: _Book, claim: _Claim) -> bool:
    """By whole flows only: the counts of one that goes on are of another moment at each end."""
    ours, theirs = teller.rows.get(claim.key, []), other.rows[claim.key]
    if not all(row.end for row in (*ours, *theirs)):
        return False
    way = 0 if claim.row.device == claim.node else 1
    return sum(row.bytes[way] for row in ours) > _SLACK * sum(row.bytes[way] for row in theirs) + _SLACK_BYTES


def _claims(source: str, row: FlowRow) -> Iterator[_Claim]:
    """Of whom the teller had packets. A flow that goes on was begun by one, at least."""
    key, *others = _keys(row)
    if not is_gateway(source):
        if row.device != source or row.packets[1]:
            yield _Claim("", key, row)
        return
    if row.device and not is_gateway(row.device):
        yield _Claim(row.device, key, row)
    if row.peer and not is_gateway(row.peer) and row.packets[1]:
        yield _Claim(row.peer, others[0] if others else key, row)


def _keys(row: FlowRow) -> list[Key]:
    """The same for both directions; and the flow's name in the VNI that it crossed to."""
    names = [(row.vni, row.source, row.destination)]
    if row.crossed is not None:
        names.append((row.crossed.vni, row.crossed.source, row.crossed.destination))
    return [_key(vni, row, source, destination) for vni, source, destination in names]


def _key(vni: int, row: FlowRow, source: str, destination: str) -> Key:
    one, other = sorted(((source, row.source_port), (destination, row.destination_port)))
    return vni, row.protocol, (one, other)


def _windows(events: Iterable[Event]) -> Iterator[tuple[Event, FlowWindow]]:
    """What is no window, by whatever version, tells nothing."""
    for event in events:
        if event.kind == LEDGER_WINDOW:
            try:
                yield event, msgspec.convert(event.detail, FlowWindow)
            except msgspec.ValidationError:
                continue


def _overlap(begin: float, end: float, other_begin: float, other_end: float) -> bool:
    return begin <= other_end + CLOCK_SKEW_S and other_begin <= end + CLOCK_SKEW_S


def _text(row: FlowRow) -> str:
    """`tcp 10.7.0.5:40112 > 10.7.0.9:443 in vni 7`."""
    name = PROTOCOLS.get(row.protocol, str(row.protocol))
    if row.protocol in _ICMP:
        return f"{name} {row.source} > {row.destination} in vni {row.vni}"
    source, destination = (row.source, row.source_port), (row.destination, row.destination_port)
    return f"{name} {format_address(source)} > {format_address(destination)} in vni {row.vni}"
