"""VNIs with the same prefix on one host."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from kairos_node.netlink import VniPlan
from kairos_node.vnis import set_apart


def plan(vni: int, *addresses: str, isolated: bool = False) -> VniPlan:
    return VniPlan(vni, f"v{vni}", 1380, tuple(map(ip_interface, addresses)), (), isolated)


@pytest.mark.parametrize(
    ("plans", "placed", "apart"),
    [
        ([plan(8, "10.7.0.1/24"), plan(7, "10.7.0.1/24")], [], {8: "v7"}),
        ([plan(8, "10.7.0.1/24"), plan(7, "10.7.0.1/24")], [8], {7: "v8"}),
        ([plan(7, "10.7.0.1/24"), plan(8, "10.7.0.1/24", isolated=True)], [], {}),
        ([plan(7, "10.7.0.1/24", isolated=True), plan(8, "10.7.0.1/24")], [], {}),
        ([plan(7, "10.0.0.1/8"), plan(8, "10.7.0.1/24")], [], {8: "v7"}),
        ([plan(7, "10.7.0.1/24"), plan(8, "fd07::1/64")], [], {}),
        ([plan(7, "10.7.0.1/24", "fd07::1/64"), plan(8, "10.8.0.1/24", "fd07::1/64")], [], {8: "v7"}),
        ([plan(7, "10.7.0.1/24"), plan(8, "10.7.0.1/24"), plan(9, "10.7.0.1/24")], [], {8: "v7", 9: "v7"}),
    ],
)
def test_an_address_means_one_vni_on_a_host(plans: list[VniPlan], placed: list[int], apart: dict[int, str]) -> None:
    found = set_apart(plans, [plan(vni) for vni in placed])
    assert {each.vni for each in found} == {each.vni for each in plans}
    assert {each.vni: each.apart for each in found if each.apart} == apart
