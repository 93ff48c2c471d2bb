"""The search for the path MTU on a virtual clock: docs/protocol.md §7, Path MTU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.constants import MTU_BASE, MTU_CONFIRM_EVERY_S, MTU_PRECISION, MTU_RAISE_AFTER_S
from kairos.errors import BadMessage
from kairos.protocol.path_mtu import Limit, MtuSearch, SizeProbe, is_size_probe, limit_told_untrusted

JUMBO, COMMON = 8_940, 1_420  # what VNIs with an MTU of 8,900 and 1,380 need
SEARCHED_S = 30.0
Loses = Callable[[SizeProbe], bool]


class Path:
    """Carries datagrams of up to `most` bytes, after a tenth of a second, and loses what `loses` says."""

    def __init__(self, largest: int, most: int, loses: Loses = lambda _: False) -> None:
        self.search, self.most, self.loses = MtuSearch(largest), most, loses
        self.now = 0.0
        self.limits: list[int] = []
        self.told: int | None = None
        self.sent: list[int] = []
        self.search.start(self.now)

    def run(self, seconds: float) -> Path:
        until = self.now + seconds
        while (due := self.search.next_deadline()) is not None and due <= until:
            assert due >= self.now or self.now == 0.0, "a deadline lies in the past"
            self.now = max(due, self.now)
            self._carry_out(self.search.tick(self.now))
        self.now = until
        return self

    def _carry_out(self, actions: list[SizeProbe | Limit]) -> None:
        for action in actions:
            if isinstance(action, Limit):
                self.limits.append(action.size)
        for probe in (action for action in actions if isinstance(action, SizeProbe)):
            self.sent.append(probe.size)
            if probe.size <= self.most and not self.loses(probe):
                self.told = limit_told_untrusted(probe.payload)
                self._carry_out(self.search.acknowledged_untrusted(probe.payload, probe.size, self.now))


@pytest.mark.parametrize("largest", [COMMON, JUMBO])
def test_a_path_that_carries_all_is_known_after_one_answer_and_has_no_limit(largest: int) -> None:
    path = Path(largest, 9_972)
    path.run(0.0)
    assert path.search.known == largest
    assert path.run(SEARCHED_S).limits == []
    assert path.told == 0


@pytest.mark.parametrize(("most", "largest"), [(1_252, COMMON), (1_232, COMMON), (1_472, JUMBO), (8_972, 9_040)])
def test_what_links_commonly_carry_is_found_to_the_byte(most: int, largest: int) -> None:
    path = Path(largest, most).run(SEARCHED_S)
    assert (path.search.limit, path.told) == (most, most)
    assert path.limits[0] == most  # within the first round: 1.5 s


@given(most=st.integers(MTU_BASE, JUMBO - 1))
def test_any_path_is_found_and_the_peer_told(most: int) -> None:
    path = Path(JUMBO, most).run(SEARCHED_S)
    assert most - MTU_PRECISION < path.search.limit <= most
    assert path.told == path.search.limit
    assert path.limits == sorted(path.limits)  # no datagram was ever kept smaller than what was known


def test_two_losses_in_a_row_change_nothing() -> None:
    seen: dict[int, int] = {}

    def loses(probe: SizeProbe) -> bool:
        seen[probe.size] = seen.get(probe.size, 0) + 1
        return seen[probe.size] <= 2

    assert Path(COMMON, COMMON, loses).run(SEARCHED_S).limits == []


def test_a_path_that_becomes_narrower_is_noticed_and_one_that_becomes_wider_too() -> None:
    path = Path(COMMON, COMMON).run(SEARCHED_S)
    path.most = 1_252
    assert path.run(2 * MTU_CONFIRM_EVERY_S).search.limit == 1_252
    path.run(SEARCHED_S).most = COMMON
    path.run(MTU_RAISE_AFTER_S + SEARCHED_S)
    assert path.limits == [1_252, 0]
    assert path.told == 0


def test_less_than_the_base_is_taken_for_the_base() -> None:
    path = Path(COMMON, 700).run(SEARCHED_S)
    assert path.limits == [MTU_BASE]


def test_a_new_path_starts_without_a_limit_and_hears_nothing_of_the_old() -> None:
    path = Path(COMMON, 1_252).run(SEARCHED_S)
    old = [action for action in probes_due(path) if isinstance(action, SizeProbe)]
    path.search.start(path.now)
    assert path.search.limit == path.search.known == 0
    for probe in old:
        assert path.search.acknowledged_untrusted(probe.payload, probe.size, path.now) == []
    assert path.search.known == 0


def probes_due(path: Path) -> list[SizeProbe | Limit]:
    due = path.search.next_deadline()
    assert due is not None
    return path.search.tick(due)


def test_an_answer_smaller_than_its_probe_proves_nothing_of_the_way_back() -> None:
    path = Path(COMMON, 0)
    [*_, probe] = [action for action in path.search.tick(0.0) if isinstance(action, SizeProbe)]
    path.search.acknowledged_untrusted(probe.payload, 100, 0.1)
    assert path.search.known == 0
    path.search.acknowledged_untrusted(probe.payload, probe.size, 0.1)
    assert path.search.known == COMMON


def test_where_nothing_is_larger_than_the_base_nothing_is_sent() -> None:
    search = MtuSearch(MTU_BASE)
    search.start(0.0)
    assert search.next_deadline() is None


@given(payload=st.binary(max_size=40))
def test_any_bytes_are_a_size_probe_or_a_bad_message(payload: bytes) -> None:
    search = MtuSearch(COMMON)
    search.start(0.0)
    search.tick(0.0)
    for read in (limit_told_untrusted, lambda told: search.acknowledged_untrusted(told, 1_000, 0.1)):
        try:
            read(payload)
        except BadMessage:
            continue
        assert is_size_probe(payload)
