"""Bulk, churn and a new key every few moments: no byte is lost, doubled or altered. `./dev bench soak` takes longer over it."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from kairos_dataplane import load
from soak import FAULTS, Soak
from two_hosts import two_hosts

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="network namespaces need root and /dev/net/tun"
)


def enough(tally: Counter[str]) -> bool:
    return tally["rekeys"] >= 20 and tally["connections"] >= 30 and tally["carried"] >= 64 << 20


def test_no_byte_is_lost_doubled_or_altered() -> None:
    with two_hosts(lambda: load("c")) as hosts:
        tally = Soak(*hosts).run(enough, rekey_every_s=0.1)
    assert {name: tally[name] for name in ("lost", "doubled", "altered", "failed", *FAULTS) if tally[name]} == {}
