"""Which VNIs a gateway keeps out of the host's routing table."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from kairos_gateway.sharing import Sharing
from kairos_node.netlink import VniPlan


def plan(vni: int, *routes: str, isolated: bool = False) -> VniPlan:
    return VniPlan(vni, f"vni{vni}", 1380, (), tuple(map(ip_network, routes)), isolated)


def apart(plans: Iterable[VniPlan]) -> list[int]:
    return sorted(each.vni for each in plans if each.isolated)


def test_the_first_of_a_prefix_shares_and_the_others_do_not() -> None:
    plans = [
        plan(3, "10.7.0.0/16"),
        plan(1, "10.7.0.0/24", "fd07::/64"),
        plan(2, "10.8.0.0/24", "fd07::/64"),
        plan(4, "10.9.0.0/24"),
    ]
    assert apart(Sharing(False, []).placed(plans)) == [2, 3]


def test_what_is_in_place_stays_as_it_is() -> None:
    known = [plan(5, "10.7.0.0/24"), plan(6, "10.8.0.0/24", isolated=True)]
    again = [plan(5, "10.7.0.0/24"), plan(6, "10.8.0.0/24"), plan(1, "10.7.0.0/24"), plan(2, "10.8.0.0/24")]
    assert apart(Sharing(False, known).placed(again)) == [1, 6]


def test_who_asks_for_it_takes_nothing_from_the_others() -> None:
    plans = [plan(1, "10.7.0.0/24", isolated=True), plan(2, "10.7.0.0/24")]
    assert apart(Sharing(False, []).placed(plans)) == [1]


def test_all_can_be_apart() -> None:
    assert apart(Sharing(True, []).placed([plan(1, "10.7.0.0/24"), plan(2, "10.8.0.0/24")])) == [1, 2]


def test_a_route_that_comes_later_is_not_taken_from_who_has_it() -> None:
    known = [plan(1, "10.7.0.0/24"), plan(2, "10.8.0.0/24")]
    later = [
        plan(1, "10.7.0.0/24", "10.8.0.128/25", "10.9.0.0/24"),
        plan(2, "10.8.0.0/24", "10.8.0.0/26", "10.9.0.0/16"),
    ]
    first, second = Sharing(False, known).placed(later)
    assert [str(route) for route in first.routes] == ["10.7.0.0/24", "10.9.0.0/24"]
    assert [str(route) for route in second.routes] == ["10.8.0.0/24", "10.8.0.0/26"]


def test_a_thousand_are_placed_as_two_are() -> None:
    plans = [plan(n, f"10.{n >> 8}.{n & 255}.0/24", f"fd00:{n:x}::/64") for n in range(1, 1001)]
    assert apart(Sharing(False, []).placed([*plans, plan(2000, "10.2.0.0/15"), plan(2001, "192.168.0.0/16")])) == [2000]
