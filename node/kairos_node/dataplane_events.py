"""Hands the data plane's events to whom they concern, on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kairos.wire.datagram import DatagramType
from kairos_dataplane import ControlReceived, Dataplane, Flow, FlowOpened, PathMoved, RelayReady
from kairos_node.relay_link import RelayLink

_ROUNDS = 16  # of events before other work on the loop gets its turn


@dataclass(slots=True)
class Listeners:
    """links: the relay sockets open now; acknowledged: a PROBE_ACK for one of our sessions; moved: a peer's path;
    claimed: a CLAIM of our peer."""

    links: Collection[RelayLink]
    flow_opened: Callable[[Flow], None]
    acknowledged: Callable[[ControlReceived], None]
    moved: Callable[[PathMoved], None]
    claimed: Callable[[ControlReceived], None]


class DataplaneEvents:
    def __init__(self, dataplane: Dataplane, listeners: Listeners) -> None:
        self._dataplane = dataplane
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(dataplane.event_fd, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._dataplane.event_fd)

    def _read(self) -> None:
        for _ in range(_ROUNDS):
            events = self._dataplane.events()
            for event in events:
                match event:
                    case RelayReady(relay):
                        for link in self._listeners.links:
                            link.datagrams_waiting(relay)
                    case FlowOpened(flow):
                        self._listeners.flow_opened(flow)
                    case ControlReceived():
                        self._control(event)
                    case PathMoved():
                        self._listeners.moved(event)
            if not events:
                return

    def _control(self, event: ControlReceived) -> None:
        if event.type == DatagramType.PROBE:
            self._acknowledge(event)
        elif event.type == DatagramType.PROBE_ACK:
            self._listeners.acknowledged(event)
        elif event.type == DatagramType.CLAIM:
            self._listeners.claimed(event)

    def _acknowledge(self, probe: ControlReceived) -> None:
        """To where the PROBE came from: that the answer arrives is what shows the path is open both ways."""
        try:
            self._dataplane.send_control(
                probe.session, DatagramType.PROBE_ACK, probe.payload, probe.source, via_relay=probe.source is None
            )
        except OSError:  # the session was cut meanwhile
            return
