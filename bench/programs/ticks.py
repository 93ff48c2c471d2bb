"""Writes the time of CLOCK_MONOTONIC, in nanoseconds as eight bytes, to its standard output, about a thousand times a second.

    python -m bench.programs.ticks

Whoever reads it knows how long a byte that was there has waited. Ends with its standard input.
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
