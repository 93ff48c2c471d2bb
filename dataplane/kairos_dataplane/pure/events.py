"""Events on their way to Python: a queue for each sender, served in turn. csrc/event.c says the same in C."""

from __future__ import annotations

import contextlib
import os
from collections import deque

from kairos_dataplane.engine import Event, PathMoved, RelayReady

EVENTS_MAX = 8192
EVENTS_A_SENDER = 1024

Sharer = tuple[int, int]  # what a sender's share is found by: its session, or 0 and the VNI of its TUN


class EventQueues:
    """The records are shared. A sender has at most EVENTS_A_SENDER of them, and at most as many as are free. fd: an eventfd,
    readable while there are events."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._relays: deque[Event] = deque()
        self._senders: dict[Sharer, deque[Event]] = {}  # those that have events, in turn
        self._used = 0
        self._relay_is_next = False

    def put(self, sharer: Sharer, event: Event) -> bool:
        """False: there is no room for it."""
        relay = isinstance(event, RelayReady)
        queue = self._relays if relay else self._senders.get(sharer, deque())
        if isinstance(event, PathMoved):  # only where it is now matters
            for at, known in enumerate(queue):
                if isinstance(known, PathMoved):
                    queue[at] = event
                    return True
        if len(queue) >= EVENTS_MAX - self._used or (not relay and len(queue) >= EVENTS_A_SENDER):
            return False
        queue.append(event)
        if not relay:
            self._senders[sharer] = queue
        self._used += 1
        os.eventfd_write(self.fd, 1)
        return True

    def take(self) -> Event | None:
        """None: there is none."""
        if not self._used:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            return None
        self._used -= 1
        of_relay = bool(self._relays) and (self._relay_is_next or not self._senders)
        self._relay_is_next = not of_relay
        if of_relay:
            return self._relays.popleft()
        sharer, queue = next(iter(self._senders.items()))
        event = queue.popleft()
        del self._senders[sharer]
        if queue:
            self._senders[sharer] = queue  # behind all others
        return event

    def forget(self, sharer: Sharer) -> None:
        """Before that sender goes."""
        self._used -= len(self._senders.pop(sharer, ()))
