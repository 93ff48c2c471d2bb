"""Questions that daemons ask of the network."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from kairos.api.session import Lease, Member, Network, Route, Vni
from kairos_node.network_view import NetworkView

RECORD = Network(
    revision=3,
    vnis=[
        Vni(7, "office", ["10.7.0.0/24", "fd07::/64"], routes=[Route("192.168.50.0/24", "gw-a"), Route("10.99.0.0/16", "ep-b")]),
        Vni(8, "vault", ["10.7.0.0/24"]),
    ],
    leases=[
        Lease(7, "gw-a", ["10.7.0.1/24"]),
        Lease(7, "ep-a", ["10.7.0.5/24", "fd07::5/64"]),
        Lease(7, "ep-b", ["10.7.0.6/24"]),
        Lease(8, "ep-b", ["10.7.0.5/24"]),
    ],
    members=[Member(node, "endpoint", node, "1", b"") for node in ("gw-a", "ep-a", "ep-b")],
    revoked=[],
)  # fmt: skip
VIEW = NetworkView(RECORD)


def networks(*texts: str) -> set[object]:
    return {ip_network(text) for text in texts}


def test_an_address_names_another_member_in_another_vni() -> None:
    here, there = VIEW.holder(7, ip_address("10.7.0.5")), VIEW.holder(8, ip_address("10.7.0.5"))
    assert here is not None
    assert there is not None
    assert (here.node, there.node) == ("ep-a", "ep-b")
    assert VIEW.holder(7, ip_address("10.7.0.77")) is None


def test_a_node_may_send_from_its_addresses_and_for_the_networks_behind_it() -> None:
    assert VIEW.leases(7, "ep-a") == networks("10.7.0.5/32", "fd07::5/128")
    assert VIEW.leases(7, "ep-b") == networks("10.7.0.6/32", "10.99.0.0/16")
    assert VIEW.leases(8, "ep-a") == set()


def test_what_lies_beyond_a_node_is_all_but_what_leads_to_it() -> None:
    assert VIEW.reachable(7, "ep-a") == networks("10.7.0.0/24", "fd07::/64", "192.168.50.0/24", "10.99.0.0/16")
    assert VIEW.reachable(7, "gw-a") == networks("10.7.0.0/24", "fd07::/64", "10.99.0.0/16")


def test_an_exit_may_speak_for_the_world_but_not_for_the_vni() -> None:
    routes = [Route("0.0.0.0/0", "ep-a"), Route("192.168.50.0/24", "gw-a")]
    view = NetworkView(
        Network(1, [Vni(7, "office", ["10.7.0.0/24"], routes=routes)], RECORD.leases, RECORD.members, [])
    )
    allowed = view.leases(7, "ep-a")
    for address, may in (("8.8.8.8", True), ("10.7.0.5", True), ("10.7.0.6", False), ("192.168.50.9", False)):
        assert any(ip_address(address) in network for network in allowed) == may


@given(st.lists(st.text(max_size=20), max_size=4), st.lists(st.text(max_size=20), max_size=4))
def test_nonsense_of_the_fabric_is_left_out(addresses: list[str], prefixes: list[str]) -> None:
    routes = [Route(prefix, "gw-a") for prefix in prefixes]
    record = Network(1, [Vni(7, "office", prefixes, routes=routes)], [Lease(7, "ep-a", addresses)], [], [])
    view = NetworkView(record)
    view.leases(7, "ep-a")
    view.reachable(7, "ep-a")
