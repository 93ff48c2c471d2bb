"""One end of the data plane as a process of its own: an engine, a TUN and a UDP socket in a namespace, every flow judged once.

    python -m bench.programs.engine NAMESPACE SIDE AEAD        SIDE is 0 or 1, AEAD auto or openssl

Stays until its standard input ends.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from kairos_dataplane import Verdict, load
from two_hosts import Host


class _Other(NamedTuple):
    """What an end knows of its peer: both make the same calls, so each gives its session the same number."""

    side: int
    session: int


def main() -> None:
    name, side, aead = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    host = Host(name, side, load("c", aead), lambda flow: Verdict.ALLOW)
    host.connect(_Other(1 - side, host.session))
    sys.stdin.read()
    host.close()


if __name__ == "__main__":
    main()
