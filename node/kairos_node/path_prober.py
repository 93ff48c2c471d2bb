"""T6, the endpoint's side: probes the gateway's addresses and moves the tunnel's sessions between paths."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address

from kairos.errors import BadMessage
from kairos.protocol.path import Address, Mode, Move, PathFinder, Probe
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Dataplane

_log = logging.getLogger(__name__)
_NO_RELAY = 0  # names no queue: datagrams wait for the direct path, or are dropped and counted


class PathProber:
    """One tunnel's. sessions: the data plane's sessions of the tunnel now; moved: told of every change of path."""

    def __init__(
        self,
        dataplane: Dataplane,
        sessions: Callable[[], Collection[int]],
        relay: int,
        candidates: Sequence[Address],
        mode: Mode,
        moved: Callable[[Address | None], None],
    ) -> None:
        self._dataplane = dataplane
        self._sessions = sessions
        self._relay = relay
        self._candidates = candidates
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._finder = PathFinder(mode, candidates, self._loop.time())
        if mode == "direct":
            self._move(None, told=False)
        self._tick()

    @property
    def current(self) -> Address | None:
        """None: through the relay."""
        return self._finder.current

    @property
    def round_trip_s(self) -> float:
        return self._finder.round_trip_s

    def set_mode(self, mode: Mode) -> None:
        """Starts over at the relay under another mode."""
        self._finder = PathFinder(mode, self._candidates, self._loop.time())
        self._move(None)
        self._tick()

    def acknowledged_untrusted(self, payload: bytes) -> None:
        """A PROBE_ACK of our peer."""
        try:
            self._act(self._finder.acknowledged_untrusted(payload, self._loop.time()))
        except BadMessage as error:
            _log.warning("%s", error)

    def renew(self) -> None:
        """Sessions joined the tunnel: they take the path in use."""
        self._move(self._finder.current, told=False)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._act(self._finder.tick(self._loop.time()))

    def _act(self, actions: list[Probe | Move]) -> None:
        for action in actions:
            if isinstance(action, Probe):
                self._probe(action)
            else:
                self._move(action.to)
        self.close()
        due = self._finder.next_deadline()
        if due is not None:
            self._timer = self._loop.call_at(due, self._tick)

    def _probe(self, probe: Probe) -> None:
        """Any session will do: a path is good for all of them."""
        for session in list(self._sessions())[:1]:
            self._control(session, DatagramType.PROBE, probe.payload, probe.to)

    def _move(self, to: Address | None, told: bool = True) -> None:
        """The KEEPALIVE makes the gateway follow, each (session, VNI) by itself (docs/protocol.md §7, Paths)."""
        for session in self._sessions():
            if to is None:
                relay = _NO_RELAY if self._finder.mode == "direct" else self._relay
                self._dataplane.use_relay(session, relay, False)
            else:
                self._dataplane.use_direct(session, to, False, self._relay)
            self._control(session, DatagramType.KEEPALIVE, b"", None)
        if told:
            self._moved(to)

    def _control(self, session: int, kind: DatagramType, payload: bytes, to: Address | None) -> None:
        try:
            self._dataplane.send_control(session, kind, payload, to)
        except OSError as error:  # no key yet, or no route to that candidate from here
            _log.debug("%s to %s: %s", kind.name, to, error)


def parse_candidates(texts: Sequence[str]) -> list[Address]:
    """`192.0.2.1:7843`, `[2001:db8::1]:7843`; one that makes no sense is left out."""
    found: list[Address] = []
    for text in texts:
        host, _, port = text.rpartition(":")
        with contextlib.suppress(ValueError):
            address = (str(ip_address(host.strip("[]"))), int(port))
            if 0 < address[1] < 65536:
                found.append(address)
    return found


def format_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
