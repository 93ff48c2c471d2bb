"""UDP datagrams at a fixed rate, each of a new flow, or all of a hundred known ones.

python -m bench.programs.datagrams ADDRESS RATE SECONDS new|known
"""

from __future__ import annotations

import socket
import sys
import time

_FIRST_PORT, _PORTS, _KNOWN = 10_000, 50_000, 100
_TICK_S = 0.001


def main() -> None:
    address, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    ports = _PORTS if sys.argv[4] == "new" else _KNOWN
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        began, sent = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            while sent < now * rate:
                sender.sendto(b"x", (address, _FIRST_PORT + sent % ports))
                sent += 1
            time.sleep(_TICK_S)


if __name__ == "__main__":
    main()
