"""docs/protocol.md §7, Several gateways: one order for all members, at once away, not at once back."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.protocol.failover import SETTLED_AFTER_S, Choice, Health, Rank, order, warm

NAMES = st.text("abcdefgh0123456789", min_size=1, max_size=12).map("gw-{}".format)
RANKS = st.builds(Rank, st.integers(0, 3), st.integers(1, 100))


@given(st.integers(1, 1 << 24), st.dictionaries(NAMES, RANKS, max_size=8))
def test_the_order_is_by_priority_and_depends_on_nothing_but_its_input(vni: int, gateways: dict[str, Rank]) -> None:
    ranked = order(vni, gateways)
    assert sorted(ranked) == sorted(gateways)
    assert [gateways[node].priority for node in ranked] == sorted(rank.priority for rank in gateways.values())
    assert ranked == order(vni, dict(reversed(gateways.items())))


@given(st.integers(1, 1 << 24), st.dictionaries(NAMES, RANKS, min_size=1, max_size=8), st.data())
def test_a_gateway_that_goes_moves_no_vni_but_its_own(vni: int, gateways: dict[str, Rank], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(gateways)))
    left = order(vni, {node: rank for node, rank in gateways.items() if node != gone})
    assert left == [node for node in order(vni, gateways) if node != gone]


@pytest.mark.parametrize(("weights", "share"), [((100, 100), 0.5), ((300, 100), 0.75), ((100, 900), 0.1)])
def test_vnis_are_spread_by_weight(weights: tuple[int, int], share: float) -> None:
    gateways = {f"gw-{i}": Rank(100, weight) for i, weight in enumerate(weights)}
    first = Counter(order(vni, gateways)[0] for vni in range(1, 4001))
    assert first["gw-0"] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("down", "kept"),
    [((), "ab"), (("a",), "abc"), (("a", "b"), "abcd"), (("c",), "ab"), (("a", "b", "c", "d"), "abcd")],
    ids=str,
)
def test_two_tunnels_are_kept_beside_those_that_may_come_back(down: tuple[str, ...], kept: str) -> None:
    assert warm("abcd", down) == set(kept)


def healthy(*nodes: str, since: float = 0.0) -> dict[str, Health]:
    health = {node: Health() for node in nodes}
    for each in health.values():
        each.heard(since)
    return health


def test_a_lost_gateway_is_left_at_once_and_taken_back_when_it_has_settled() -> None:
    health, choice = healthy("a", "b"), Choice()
    assert choice.choose("ab", health, 0.0) == "a"
    health["a"].lost()
    assert choice.choose("ab", health, 5.0) == "b"
    health["a"].heard(6.0)
    health["a"].heard(9.0)  # the time since counts, not the last word
    assert choice.choose("ab", health, 6.0 + SETTLED_AFTER_S - 0.01) == "b"
    assert choice.choose("ab", health, 6.0 + SETTLED_AFTER_S) == "a"


def test_a_gateway_that_comes_and_goes_is_not_gone_back_to() -> None:
    health, choice = healthy("a", "b"), Choice()
    choice.choose("ab", health, 0.0)
    for at in range(10, 100, 9):
        health["a"].lost()
        assert choice.choose("ab", health, at) == "b"
        health["a"].heard(at + 0.1)
        assert choice.choose("ab", health, at + 8.9) == "b"


def test_when_none_is_well_there_is_no_choice_and_the_first_that_comes_is_taken() -> None:
    health, choice = healthy("b"), Choice()
    health["b"].lost()
    assert choice.choose("ab", health, 0.0) is None
    health["b"].heard(1.0)
    assert choice.choose("ab", health, 1.0) == "b"
