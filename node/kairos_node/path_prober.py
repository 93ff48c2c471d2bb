"""T6, the endpoint's side: probes the gateway's addresses, moves the tunnel's sessions between paths, and finds out how
large a datagram the direct one carries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address

from kairos.errors import BadMessage
from kairos.protocol.path import Address, Mode, Move, PathFinder, Probe
from kairos.protocol.path_mtu import Limit, MtuSearch, SizeProbe, is_size_probe
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Dataplane

_log = logging.getLogger(__name__)
_NO_RELAY = 0  # names no queue: datagrams wait for the direct path, or are dropped and counted


class PathProber:
    """One tunnel's. sessions: the data plane's sessions of the tunnel now; largest: bytes of the largest datagram that its
    VNIs give rise to; moved: told of every change of path."""

    def __init__(
        self,
        dataplane: Dataplane,
        sessions: Callable[[], Collection[int]],
        relay: int,
        candidates: Sequence[Address],
        mode: Mode,
        largest: Callable[[], int],
        moved: Callable[[Address | None], None],
    ) -> None:
        self._dataplane = dataplane
        self._sessions = sessions
        self._relay = relay
        self._candidates = candidates
        self._largest = largest
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._finder = PathFinder(mode, candidates, self._loop.time())
        self._search = MtuSearch(largest())
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

    @property
    def datagram_max(self) -> int:
        """Bytes of the largest datagram that the direct path is known to carry; 0: none is."""
        return self._search.known

    def set_mode(self, mode: Mode) -> None:
        """Starts over at the relay under another mode."""
        self._finder = PathFinder(mode, self._candidates, self._loop.time())
        self._move(None)
        self._tick()

    def acknowledged_untrusted(self, payload: bytes, size: int) -> None:
        """A PROBE_ACK of our peer, in a datagram of `size` bytes."""
        now = self._loop.time()
        try:
            if is_size_probe(payload):
                self._act(self._search.acknowledged_untrusted(payload, size, now))
            else:
                self._act(self._finder.acknowledged_untrusted(payload, now))
        except BadMessage as error:
            _log.warning("%s", error)

    def renew(self) -> None:
        """Sessions joined the tunnel: they take the path in use, and may have larger packets."""
        self._search.largest = self._largest()
        self._move(self._finder.current, told=False)
        self._act([])

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = self._loop.time()
        self._act(self._finder.tick(now))
        self._act(self._search.tick(now))

    def _act(self, actions: Sequence[Probe | Move | SizeProbe | Limit]) -> None:
        for action in actions:
            match action:
                case Probe(to, payload):
                    self._probe(payload, to)
                case Move(to):
                    self._move(to)
                case SizeProbe(size, payload):
                    self._probe(payload, self._finder.current, size)
                case Limit(size):
                    self._limit(size)
        self.close()
        due = [at for at in (self._finder.next_deadline(), self._search.next_deadline()) if at is not None]
        if due:
            self._timer = self._loop.call_at(min(due), self._tick)

    def _probe(self, payload: bytes, to: Address | None, size: int = 0) -> None:
        """Any session will do: a path is good for all of them."""
        for session in list(self._sessions())[:1]:
            self._control(session, DatagramType.PROBE, payload, to, size)

    def _limit(self, size: int) -> None:
        for session in self._sessions():
            with contextlib.suppress(OSError):  # it was cut meanwhile
                self._dataplane.set_limit(session, size)

    def _move(self, to: Address | None, told: bool = True) -> None:
        """The KEEPALIVE makes the gateway follow, each (session, VNI) by itself (docs/protocol.md §7, Paths)."""
        for session in self._sessions():
            if to is None:
                relay = _NO_RELAY if self._finder.mode == "direct" else self._relay
                self._dataplane.use_relay(session, relay, False)
            else:
                self._dataplane.use_direct(session, to, False, self._relay)
            self._control(session, DatagramType.KEEPALIVE, b"", None)
        if to is None:
            self._search.stop()
        else:
            self._search.start(self._loop.time())
        if told:
            self._moved(to)

    def _control(self, session: int, kind: DatagramType, payload: bytes, to: Address | None, size: int = 0) -> None:
        try:
            self._dataplane.send_control(session, kind, payload, to, size=size)
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
