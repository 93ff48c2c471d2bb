"""Double entry of flows: what each end of a tunnel tells of the flows that passed it (docs/audit.md).

A node sums a window of some seconds up in events of kind LEDGER_WINDOW. Its windows follow each other without a gap, so what none
of them names did not happen, by the node's word; what does not fit into one is chosen by lot and counted as left out.
"""

from __future__ import annotations

import msgspec

LEDGER_WINDOW = "ledger.window"
WINDOW_S = 10
WINDOW_ROWS = 1000  # of one window; more are left out
EVENT_BYTES = 12 * 1024  # of rows in one event, which has at most 16 KiB with the rest
RULE_MAX = 80  # characters of a rule's name
RESTATE_S = 600  # a flow that lives on is told again so often


class Crossed(msgspec.Struct, frozen=True, array_like=True):
    """The same flow in the VNI that it came to over an interconnect: vni, and what its ends are called there."""

    vni: int
    source: str
    destination: str


class FlowRow(msgspec.Struct, frozen=True, array_like=True):
    """One flow, as its initiator names it. device, peer: the nodes that begin and answer it, empty where no node is known;
    session: of the tunnel, as the fabric named it; opened, last: Unix seconds by the teller's clock, of its first and newest
    packet; packets, bytes: (towards the responder, back), of a flow that goes on as far as they are known; end: empty while it
    goes on, else idle, closed, cut, replaced, denied or stopped (the
    teller is going down)."""

    vni: int
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    device: str
    peer: str
    session: str
    rule: str
    opened: float
    last: float
    packets: tuple[int, int]
    bytes: tuple[int, int]
    end: str
    crossed: Crossed | None = None


class FlowWindow(msgspec.Struct, frozen=True):
    """The detail of a LEDGER_WINDOW event. since, until: Unix seconds, the same in all events of one window; left_out: flows of
    this window that no event names, told by its last event."""

    since: float
    until: float
    left_out: int
    rows: list[FlowRow]
