"""A soak of the data plane: bulk both ways, short connections without end, a new key each second, every byte compared.

Two engines with real TUNs in two network namespaces, in this process, whose Python makes and checks the streams: the
rate is what that leaves, the zeros are the point.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import partial

from bench.rounds import Rounds
from kairos_dataplane import load
from soak import FAULTS, Soak
from two_hosts import two_hosts

_REKEY_EVERY_S = 1.0
_ROUNDS = 3
_QUICK_S = 5.0


def main() -> None:
    rounds = Rounds("soak", __doc__, options=_options)
    seconds = _QUICK_S if rounds.quick else 60 * rounds.options.minutes / _ROUNDS
    for _ in rounds:
        with two_hosts(lambda: load("c"), tag="soak") as hosts:
            began = time.monotonic()
            tally = Soak(*hosts).run(partial(_is_over, began + seconds), _REKEY_EVERY_S)
            took = time.monotonic() - began
        rounds.add("lost_bytes", tally["lost"], "bytes")
        rounds.add("doubled_bytes", tally["doubled"], "bytes")
        rounds.add("altered", tally["altered"], "blocks and messages")
        rounds.add("failed_connections", tally["failed"], "connections")
        rounds.add("faults", sum(tally[name] for name in FAULTS), "datagrams")
        rounds.add("carried_gbyte", tally["carried"] / 1e9, "GB")
        rounds.add("connections", tally["connections"], "connections")
        rounds.add("rekeys", tally["rekeys"], "rekeys")
        rounds.add("carried_gbit", tally["carried"] * 8 / 1e9 / took, "Gbit/s")
    rounds.finish()


def _is_over(until: float, _: Counter[str]) -> bool:
    return time.monotonic() >= until


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=3, help="how long in all, over three rounds (default 3)")


if __name__ == "__main__":
    main()
