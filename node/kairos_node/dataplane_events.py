"""Hands the data plane's events to whom they concern, on the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kairos.errors import BadMessage
from kairos.protocol.path_mtu import is_size_probe, limit_told_untrusted
from kairos.wire.datagram import DatagramType
from kairos_dataplane import ControlReceived, Dataplane, Event, Flow, FlowOpened, PathMoved, RelayReady, TunFailing
from kairos_node.relay_link import RelayLink

_log = logging.getLogger(__name__)
_ROUNDS = 16  # of events before other work on the loop gets its turn


@dataclass(slots=True)
class Listeners:
    """links: the relay sockets open now; acknowledged: a PROBE_ACK for one of our sessions; moved: a peer's path;
    claimed: a CLAIM of our peer; limited: our peer knows the largest datagram of the direct path, by session."""

    links: Collection[RelayLink]
    flow_opened: Callable[[Flow], None]
    acknowledged: Callable[[ControlReceived], None]
    moved: Callable[[PathMoved], None]
    claimed: Callable[[ControlReceived], None]
    limited: Callable[[int, int], None]


class DataplaneEvents:
    def __init__(self, dataplane: Dataplane, listeners: Listeners) -> None:
        self._dataplane = dataplane
        self._listeners = listeners
        self.failures = 0
        """Events whose handling ended in an unexpected error."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(dataplane.event_fd, self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._dataplane.event_fd)

    def _read(self) -> None:
        for _ in range(_ROUNDS):
            events = self._dataplane.events()
            if not events:
                return
            with self._dataplane.corked():
                for event in events:
                    self._contained(event)

    def _contained(self, event: Event) -> None:
        """A defect met by one event must not lose the rest of its batch. A flow whose event was lost stays without a verdict,
        and so closed."""
        try:
            self._hand_on(event)
        except Exception:
            self.failures += 1
            _log.exception("%s was not handled", type(event).__name__)

    def _hand_on(self, event: Event) -> None:
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
            case TunFailing(vni, 0):
                _log.info("the interface of VNI %d can be read again", vni)
            case TunFailing(vni, error):
                _log.error(
                    "the interface of VNI %d cannot be read, its host sends nothing: %s", vni, os.strerror(error)
                )

    def _control(self, event: ControlReceived) -> None:
        if event.type == DatagramType.PROBE:
            self._acknowledge(event)
            if is_size_probe(event.payload):
                self._limited_untrusted(event)
        elif event.type == DatagramType.PROBE_ACK:
            self._listeners.acknowledged(event)
        elif event.type == DatagramType.CLAIM:
            self._listeners.claimed(event)

    def _acknowledge(self, probe: ControlReceived) -> None:
        """To where the PROBE came from, and of its size: that the answer arrives is what shows that the path is open both
        ways, and as wide."""
        relayed, kind = probe.source is None, DatagramType.PROBE_ACK
        try:
            self._dataplane.send_control(probe.session, kind, probe.payload, probe.source, relayed, probe.size)
        except OSError:  # the session was cut meanwhile
            return

    def _limited_untrusted(self, probe: ControlReceived) -> None:
        try:
            self._listeners.limited(probe.session, limit_told_untrusted(probe.payload))
        except BadMessage as error:
            _log.warning("session %d: %s", probe.session, error)
