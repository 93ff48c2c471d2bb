"""Writes the time of CLOCK_MONOTONIC, in nanoseconds as eight bytes, to its standard output, about a thousand times a second.

    python -m bench.programs.ticks

A reader that compares a time with its own clock learns how long that byte has waited in the pipe. The program ends when its standard
input is closed.
"""

from __future__ import annotations

import select
import sys
import time


def main() -> None:
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    while not poll.poll(1):
        sys.stdout.buffer.write(time.monotonic_ns().to_bytes(8))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
