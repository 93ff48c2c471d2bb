"""The anti-replay window of docs/protocol.md §6, as a model: what RFC 6479's ring of words computes, said with one integer."""

from __future__ import annotations

from kairos.wire.datagram import REPLAY_WINDOW

_COUNTER_MAX = (1 << 64) - 1


class ReplayWindow:
    """Bit i of `_seen` stands for counter `_next` - 1 - i: bit 0 is the highest counter accepted."""

    __slots__ = ("_next", "_seen")

    def __init__(self) -> None:
        self._next = 0
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """False: seen before, or left of the window. Only for counters whose datagram is authentic."""
        if counter == _COUNTER_MAX:  # no next counter could be told from it
            return False
        if counter >= self._next:
            ahead = counter + 1 - self._next
            self._seen = (self._seen << ahead if ahead < REPLAY_WINDOW else 0) & ((1 << REPLAY_WINDOW) - 1)
            self._next = counter + 1
        back = self._next - 1 - counter
        if back >= REPLAY_WINDOW or self._seen >> back & 1:
            return False
        self._seen |= 1 << back
        return True
