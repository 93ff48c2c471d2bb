"""This node's half of the double entry: every allowed flow that passed it, in windows (kairos.audit.flow_record)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from kairos.audit.flow_record import EVENT_BYTES, RESTATE_S, WINDOW_ROWS, FlowRow, FlowWindow
from kairos_dataplane import Flow


@dataclass(slots=True)
class _Open:
    """told: the end of the window that named it last; 0: none has yet."""

    row: FlowRow
    told: float = 0.0


class FlowLedger:
    """tell: one event's worth of a window. Times are Unix seconds of this host."""

    def __init__(self, tell: Callable[[FlowWindow], None], now: float) -> None:
        self._tell = tell
        self._since = now
        self._open: dict[int, _Open] = {}  # by flow id, those that were told longest ago first
        self._fresh: dict[int, _Open] = {}  # of this window
        self._sample = _Sample()

    def opened(self, flow_id: int, row: FlowRow) -> None:
        """It was allowed."""
        self._fresh[flow_id] = _Open(row)

    def ended(self, flows: Iterable[Flow], untold: int, now: float) -> None:
        """What the data plane says is over. untold: how many more there were; `forget` leaves them out."""
        for flow in flows:
            self.over(flow, flow.ended.name.lower(), now)
        self._sample.left_out += untold

    def over(self, flow: Flow, end: str, now: float) -> None:
        known = self._fresh.pop(flow.id, None) or self._open.pop(flow.id, None)
        if known is not None:
            packets, counted = _ways(known.row, flow)
            last = round(now - flow.idle_s, 3)
            self._sample.add(msgspec.structs.replace(known.row, last=last, packets=packets, bytes=counted, end=end))

    def flows(self) -> Collection[int]:
        """Ids of those that a window has told of and that have not ended."""
        return self._open.keys()

    def forget(self, flow_id: int) -> None:
        """It is over, and how it ended is not known: it is left out for good."""
        self._open.pop(flow_id, None)

    def window(self, now: float) -> None:
        """It is over: its flows are told. One without flows is part of the next."""
        sample, self._sample = self._sample, _Sample()
        for flow_id, known in self._due(now):
            sample.add(known.row)
            known.told = now
            self._open[flow_id] = known
        self._fresh = {}
        if not sample.rows:
            self._sample.left_out = sample.left_out
            return
        *parts, last = _parts(sample.rows)
        for rows in parts:
            self._tell(FlowWindow(self._since, now, 0, rows))
        self._tell(FlowWindow(self._since, now, sample.left_out, last))
        self._since = now

    def _due(self, now: float) -> list[tuple[int, _Open]]:
        due = list(self._fresh.items())
        for flow_id, known in self._open.items():
            if known.told > now - RESTATE_S:
                break
            due.append((flow_id, known))
        for flow_id, _ in due:
            self._open.pop(flow_id, None)
        return due


def _ways(row: FlowRow, flow: Flow) -> tuple[tuple[int, int], tuple[int, int]]:
    """Packets and bytes by the row's initiator: a flow met in its middle may have been judged the other way round."""
    if row.crossed is not None or row.source == str(flow.src):
        return flow.packets, flow.bytes
    return flow.packets[::-1], flow.bytes[::-1]


def _parts(rows: Iterable[FlowRow]) -> Iterator[list[FlowRow]]:
    """What fits into one event each; at least one row."""
    part: list[FlowRow] = []
    size = 0
    for row in rows:
        length = len(msgspec.json.encode(row)) + 1
        if part and size + length > EVENT_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    yield part


class _Sample:
    """The first WINDOW_ROWS, and then each with the same chance: nobody can foresee what a window leaves out."""

    def __init__(self) -> None:
        self.rows: list[FlowRow] = []
        self.left_out = 0

    def add(self, row: FlowRow) -> None:
        if len(self.rows) < WINDOW_ROWS:
            self.rows.append(row)
            return
        self.left_out += 1
        place = secrets.randbelow(WINDOW_ROWS + self.left_out)
        if place < WINDOW_ROWS:
            self.rows[place] = row
