"""What a gateway's Config can make of a host: nothing that the fabric did not say."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.api.session import Lease, Member, Network, Route, Vni
from kairos.errors import Refused
from kairos.wire.control import Config, VniConfig
from kairos_agent.config_bounds import HostNetworks, believed_plans, believed_revision
from kairos_agent.host_networks import HostNetworksReader, lans_of, resolvers_of
from kairos_node.network_view import NetworkView

HOST = HostNetworks(
    frozenset({ip_network("192.168.1.0/24"), ip_network("fd00:1::/64")}),
    frozenset(map(ip_address, ("9.9.9.9", "203.0.113.7"))),
)
ALONE = HostNetworks(frozenset(), frozenset())
PREFIXES = ["10.7.0.0/24", "fd07::/64"]


def view(*routes: str, revision: int = 5) -> NetworkView:
    led = [Route(route, "ep-b") for route in routes]
    return NetworkView(
        Network(
            revision,
            [Vni(1, "office", PREFIXES, routes=led)],
            [Lease(1, "ep-a", ["10.7.0.5/24"])],
            [Member("ep-a", "endpoint", "a", "", b"")],
            [],
        )
    )


def config(*routes: str, revision: int = 5, vni: int = 1, addresses: tuple[str, ...] = ("10.7.0.5/24",)) -> Config:
    return Config(revision, (VniConfig(vni, "office", 100, 1380, addresses, routes, ""),), ())


def routes_of(config: Config, view: NetworkView, host: HostNetworks = HOST, isolated: bool = False) -> set[str]:
    return {
        str(each) for plan in believed_plans(config, view, "ep-a", host, lambda _: isolated) for each in plan.routes
    }


def test_what_the_fabric_says_is_taken() -> None:
    (plan,) = believed_plans(config(*PREFIXES, "172.16.0.0/16"), view("172.16.0.0/16"), "ep-a", HOST, lambda _: False)
    assert (plan.vni, plan.name, [str(each) for each in plan.addresses]) == (1, "office", ["10.7.0.5/24"])
    assert [str(each) for each in plan.routes] == [*PREFIXES, "172.16.0.0/16"]


@pytest.mark.parametrize(
    "routes",
    [
        ("0.0.0.0/1", "128.0.0.0/1"),
        ("::/1", "8000::/1"),
        ("9.9.9.9/32",),
        ("203.0.113.7/32",),
        ("10.7.0.0/23",),  # wider than the prefix
        ("10.7.0.128/25",),
    ],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_a_gateway_adds_no_route(routes: tuple[str, ...], isolated: bool) -> None:
    assert routes_of(config(*routes, *PREFIXES), view(), isolated=isolated) == set(PREFIXES)


def test_another_vni_is_seen_under_private_addresses_but_not_over_the_hosts_own() -> None:
    """The fabric tells interconnects to gateways alone."""
    seen = ("10.202.0.0/24", "fd22::/64")
    assert routes_of(config(*seen, *PREFIXES), view()) == {*seen, *PREFIXES}
    assert routes_of(config("192.168.1.0/24", *PREFIXES), view()) == set(PREFIXES)


def test_a_gateway_adds_no_address_and_no_vni() -> None:
    (plan,) = believed_plans(config(addresses=("10.7.0.9/24", "192.168.1.1/24")), view(), "ep-a", HOST, lambda _: False)
    assert plan.addresses == ()
    assert believed_plans(config("10.7.0.0/24", vni=2), view(), "ep-a", HOST, lambda _: False) == []


@pytest.mark.parametrize("revision", [6, 2**64 - 1])
def test_no_config_is_newer_than_the_fabrics_word(revision: int) -> None:
    assert believed_revision(config(revision=revision), view(revision=5)) == 5
    assert believed_revision(config(revision=4), view(revision=5)) == 4


@pytest.mark.parametrize(
    "harmful",
    [
        ("0.0.0.0/0",),
        ("0.0.0.0/1", "128.0.0.0/1"),
        ("::/1", "8000::/1"),
        ("2000::/3",),
        ("2000::/4", "3000::/4"),
        ("9.9.9.9/32",),
        ("9.0.0.0/8",),
        ("192.168.0.0/16",),
        ("192.168.1.128/25",),
        ("203.0.113.0/24",),
        ("fd00:1::/64",),
    ],
)
def test_not_even_the_fabric_leads_the_hosts_own_traffic_away(harmful: tuple[str, ...]) -> None:
    both = view(*harmful, "172.16.0.0/16"), config(*harmful, *PREFIXES, "172.16.0.0/16")
    assert routes_of(both[1], both[0]) == {*PREFIXES, "172.16.0.0/16"}
    assert routes_of(both[1], both[0], isolated=True) == {*PREFIXES, "172.16.0.0/16", *harmful}  # it has its own there


@given(st.lists(st.integers(0, 4).flatmap(lambda n: st.integers(0, 2**n - 1).map(lambda at: (at, n))), max_size=40))
def test_no_cover_of_the_whole_passes(parts: list[tuple[int, int]]) -> None:
    routes = tuple({str(ip_network((at << 32 - length, length))) for at, length in parts})
    kept = {ip_network(each) for each in routes_of(config(*routes), view(*routes), ALONE)}
    assert any(all(ip_address(n << 28) not in each for each in kept) for n in range(16))


@pytest.mark.parametrize(
    "change", [{"mtu": 100}, {"mtu": 65_535}, {"addresses": ("nonsense",)}, {"routes": ("10.7.0.5/24",)}]
)
def test_nonsense_is_refused(change: dict[str, object]) -> None:
    (vni,) = config().vnis
    with pytest.raises(Refused) as refusal:
        believed_plans(Config(5, (replace(vni, **change),), ()), view(), "ep-a", HOST, lambda _: False)  # type: ignore[arg-type]
    assert refusal.value.code == "bad-config"


def test_the_networks_of_a_host_are_read() -> None:
    routes4 = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "kairos1\t0000070A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    zeros = "0" * 32
    routes6 = (
        f"fd000001{'0' * 24} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth0\n"
        f"{zeros} 00 {zeros} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003     eth0\n"
        f"ff00{'0' * 28} 08 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth0\n"
        f"{'0' * 31}1 80 {zeros} 00 {zeros} 00000000 00000001 00000000 00000001       lo\n"
    )
    assert [str(each) for each in lans_of(routes4, routes6)] == ["192.168.1.0/24", "fd00:1::/64"]


def test_the_resolvers_of_a_host_are_read() -> None:
    text = "# nameserver 1.1.1.1\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nnameserver nonsense\nsearch x\n"
    assert [str(each) for each in resolvers_of(text)] == ["9.9.9.9", "fe80::1"]


def test_the_fabrics_address_is_kept_while_the_resolver_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        reader = HostNetworksReader("https://127.0.0.9:8787")
        assert ip_address("127.0.0.9") in (await reader.read([])).addresses

        async def down(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(loop, "getaddrinfo", down)
        monkeypatch.setattr(reader, "_look_up_at", 0.0)
        read = await reader.read([ip_address("192.0.2.1")])
        assert {ip_address("127.0.0.9"), ip_address("192.0.2.1")} <= read.addresses

    asyncio.run(run())
