"""Which VNI a program means."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from kairos.api.session import Lease, Member, Network, Vni
from kairos.errors import Refused
from kairos_agent.proxy.negotiation import Target
from kairos_agent.proxy.ways import find_way
from kairos_agent.proxy.wishes import listen_at
from kairos_node.netlink import VniPlan
from kairos_node.network_view import NetworkView


def plan(vni: int, name: str, prefix: str) -> VniPlan:
    own = ip_interface(f"{ip_network(prefix)[2]}/24")
    return VniPlan(vni, name, 1380, (own,), (ip_network(prefix),), True)


PLANS = [plan(1, "office", "10.7.0.0/24"), plan(2, "twin", "10.7.0.0/24"), plan(3, "lab", "10.9.0.0/24")]
VIEW = NetworkView(
    Network(
        1,
        [
            Vni(1, "office", ["10.7.0.0/24"], dns_suffix="office.internal"),
            Vni(2, "twin", ["10.7.0.0/24"], dns_suffix="twin.internal"),
            Vni(3, "lab", ["10.9.0.0/24"]),
        ],
        [
            Lease(1, "ep-bob", ["10.7.0.9/24", "fd07::9/64"]),
            Lease(2, "ep-bob", ["10.7.0.8/24"]),
            Lease(3, "ep-bob", ["10.9.0.9/24"]),
        ],
        [Member("ep-bob", "endpoint", "Bob", "", b"")],
        [],
    )
)


@pytest.mark.parametrize(
    ("host", "named", "vni", "addresses"),
    [
        ("bob.office.internal", "", 1, ["10.7.0.9"]),  # not the IPv6 one, which no route leads to
        ("bob.twin.internal", "", 2, ["10.7.0.8"]),
        ("bob", "lab", 3, ["10.9.0.9"]),
        ("bob", "2", 2, ["10.7.0.8"]),
        (ip_address("10.7.0.9"), "twin", 2, ["10.7.0.9"]),
        (ip_address("10.9.0.9"), "", 3, ["10.9.0.9"]),
    ],
)
def test_a_way_leads_into_one_vni(host: str, named: str, vni: int, addresses: list[str]) -> None:
    way = find_way(Target(host, 80, named), PLANS, VIEW)
    assert (way.plan.vni, [str(each) for each in way.addresses]) == (vni, addresses)
    assert way.source(way.addresses[0]) == way.plan.addresses[0].ip


@pytest.mark.parametrize(
    ("host", "named", "code"),
    [
        (ip_address("10.7.0.9"), "", "two-ways"),
        (ip_address("10.8.0.9"), "", "no-way"),
        (ip_address("10.9.0.9"), "office", "no-way"),
        (ip_address("fd07::9"), "", "no-way"),
        ("bob", "", "no-way"),
        ("bob.office.internal", "twin", "no-way"),
        ("eve.office.internal", "", "no-way"),
        ("office.internal", "", "no-way"),
        ("bob.example.com", "", "no-way"),
        ("bob", "nowhere", "no-way"),
    ],
)
def test_what_is_in_doubt_is_nowhere(host: str, named: str, code: str) -> None:
    with pytest.raises(Refused) as refused:
        find_way(Target(host, 80, named), PLANS, VIEW)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1080", "[::]:1080", "192.0.2.1:1080", "1080", "localhost:1080", "127.0.0.1:99999"]
)
def test_other_hosts_come_in_only_by_a_word_that_says_so(text: str) -> None:
    with pytest.raises(Refused, match="--listen"):
        listen_at(text, 60, beyond_host=False)
    assert listen_at("[::1]:0", 60, beyond_host=False).port == 0
    assert listen_at("0.0.0.0:1080", 60, beyond_host=True).beyond_host
