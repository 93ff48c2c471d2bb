"""Comparing a network with many takes a binary search, and comes to what comparing it with each comes to."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from kairos.api.problem import ProblemError
from kairos_control.services.prefixes import Network, NetworkSet, refuse_overlaps

# Of few addresses and lengths, so that many of them meet.
fours = st.builds(
    lambda bits, length: IPv4Network((bits << 24 >> 32 - length << 32 - length, length)),
    st.integers(0, 255),
    st.integers(0, 10),
)
sixes = st.builds(
    lambda bits, length: IPv6Network((bits << 120 >> 128 - length << 128 - length, length)),
    st.integers(0, 255),
    st.integers(0, 10),
)
networks = st.one_of(fours, sixes)


def meet(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


@given(st.lists(networks, max_size=12), networks)
def test_a_set_answers_as_its_networks_one_by_one(many: list[Network], network: Network) -> None:
    known = NetworkSet(many)
    meeting = [each for each in many if meet(each, network)]
    for found, wanted in (
        (known.overlapping(network), meeting),
        (known.within(network), [each for each in meeting if each.prefixlen >= network.prefixlen]),
        (known.around(network), [each for each in meeting if each.prefixlen <= network.prefixlen]),
    ):
        assert found in wanted if wanted else found is None


@given(st.lists(networks, max_size=8))
def test_an_overlap_is_found_wherever_it_is(many: list[Network]) -> None:
    overlap = any(meet(*pair) for pair in combinations(many, 2))
    try:
        refuse_overlaps(many)
    except ProblemError:
        assert overlap
    else:
        assert not overlap
