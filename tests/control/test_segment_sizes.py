"""VNIs of many members, routes and prefixes: what they cost, what is refused, and what the audit says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from control_plane import ControlPlane, Device
from kairos.api.problem import ProblemError
from kairos.api.push import NetworkChanged
from kairos.api.session import Network, NetworkUpdate
from kairos_control.services import interconnects, prefixes, subnet_routes, vnis

AT = "/v1/tenants/acme"
QUERIES_MAX = 50
EVENT_MAX = 32 * 1024
COST_RATIO_MAX = 1.25


def populate(plane: ControlPlane, count: int, vni: str = "") -> list[str]:
    """Devices as enrollments leave them, with the tag `many`; members of a VNI, if one is named."""
    nodes = [f"ep-{number:016x}" for number in range(count)]
    with plane.store.database as database:
        database.executemany(
            "INSERT INTO devices (tenant, node, role, name, status, public_key, key_fingerprint, token_id, tags, groups, owner,"
            " serial, not_after, enrolled_at) VALUES ('acme', ?, 'endpoint', ?, 'active', '', ?, '', '[\"many\"]', '[]', '', ?, 1, 1)",
            [(node, f"host-{node}", node.encode().hex(), node) for node in nodes],
        )
        if vni:
            [[number]] = database.execute("SELECT vni FROM vnis WHERE name = ?", (vni,))
            database.executemany(
                "INSERT INTO leases (vni, tenant, node, prefix, address) VALUES (?, 'acme', ?, ?, ?)",
                [
                    (number, node, "10.64.0.0/16", f"10.64.{at // 256}.{at % 256}/16")
                    for at, node in enumerate(nodes, 10)
                ],
            )
            database.executemany(
                "INSERT INTO given_addresses (vni, prefix, address, node) VALUES (?, ?, ?, ?)",
                [
                    (number, "10.64.0.0/16", f"10.64.{at // 256}.{at % 256}/16", node)
                    for at, node in enumerate(nodes, 10)
                ],
            )
    return nodes


def crowded(**fields: Any) -> dict[str, Any]:
    return {"name": "crowd", "prefixes": ["10.64.0.0/16", "fd64::/64"], "selectors": ["tag:many"], **fields}


def test_two_thousand_members_take_no_more_queries_than_two(plane: ControlPlane, gateway: Device) -> None:
    populate(plane, 2000)
    counts = {}
    record = plane.admin("POST", f"{AT}/vnis", crowded())
    counts["create"] = plane.store.queries
    assert record["members"] == 2001
    leases = plane.store.database.execute(
        "SELECT count(*), count(DISTINCT address) FROM leases WHERE vni = ?", (record["vni"],)
    )
    assert [tuple(row) for row in leases] == [(4002, 4002)]
    plane.admin("PUT", f"{AT}/vnis/crowd", crowded(prefixes=["10.64.0.0/16", "fd64::/64", "10.65.0.0/16"]))
    counts["change"] = plane.store.queries
    plane.admin("PUT", f"{AT}/vnis/crowd/members/{gateway.node}", {"addresses": ["10.65.200.200"]})
    counts["member"] = plane.store.queries
    plane.node(gateway, "GET", "/network")
    counts["network"] = plane.store.queries
    plane.admin("DELETE", f"{AT}/vnis/crowd")
    counts["delete"] = plane.store.queries
    assert max(counts.values()) <= QUERIES_MAX, counts


def test_a_gateway_joins_a_thousand_vnis_at_once(plane: ControlPlane, gateway: Device) -> None:
    with plane.store.database as database:
        database.executemany(
            "INSERT INTO vnis (vni, tenant, name, prefixes, mtu, dns_suffix, routes, created_at)"
            " VALUES (?, 'acme', ?, '[\"10.9.0.0/24\"]', 1380, '', '[]', 1)",
            [(1000 + number, f"v{number}") for number in range(1000)],
        )
    another = Device("gateway")
    assert plane.enroll(another, plane.token("gateway")).status == "issued"
    assert plane.store.queries <= QUERIES_MAX
    [[leases]] = plane.store.database.execute("SELECT count(*) FROM leases WHERE node = ?", (another.node,))
    assert leases == 1002


def test_addresses_that_the_operator_chose_ahead_are_passed_over(plane: ControlPlane, gateway: Device) -> None:
    nodes = populate(plane, 40)
    plane.admin("POST", f"{AT}/vnis", crowded(prefixes=["10.64.0.0/24"], selectors=[]))
    for at, node in enumerate(nodes[:30]):
        plane.admin("PUT", f"{AT}/vnis/crowd/members/{node}", {"addresses": [f"10.64.0.{2 + at}"]})
    for node in nodes[30:]:
        plane.admin("PUT", f"{AT}/vnis/crowd/members/{node}", {})
    members = plane.admin("GET", f"{AT}/vnis/crowd/members?limit=100")["items"]
    assert sorted(int(each["addresses"][0].split(".")[3].split("/")[0]) for each in members) == list(range(1, 42))


def test_steady_requests_cost_the_same_in_a_large_tenant(plane: ControlPlane, gateway: Device) -> None:
    """Of the work that SQLite does: what a node asks of a tenant with 100 devices, and of one with 10,000."""
    endpoint = plane.joined()
    plane.admin("POST", f"{AT}/vnis", crowded(prefixes=["10.64.0.0/16"], selectors=[]))
    costs: dict[str, list[int]] = {}
    for count in (100, 10_000):
        plane.store.database.execute("DELETE FROM leases WHERE prefix = '10.64.0.0/16' AND node LIKE 'ep-0%'")
        plane.store.database.execute("DELETE FROM given_addresses WHERE prefix = '10.64.0.0/16' AND node LIKE 'ep-0%'")
        plane.store.database.execute("DELETE FROM devices WHERE node LIKE 'ep-0%'")
        plane.store.database.commit()
        populate(plane, count, "crowd")
        for node in (endpoint, gateway):
            first = plane.node(node, "GET", "/network?since=0", type_=NetworkUpdate)
            plane.admin(
                "PUT",
                f"{AT}/vnis/office",
                {"name": "office", "prefixes": ["10.7.0.0/24", "fd07::/64"], "mtu": 1300 + count % 7},
            )
            since = f"/network?since={first.revision}&mark={first.mark}"
            update = plane.node(node, "GET", since, type_=NetworkUpdate)
            assert update.base == first.revision
            costs.setdefault(f"update for {node.role}", []).append(plane.store.steps)
        plane.node(endpoint, "GET", "/network?since=0", type_=NetworkUpdate)
        costs.setdefault("the whole of an endpoint elsewhere", []).append(plane.store.steps)
        plane.node(endpoint, "PUT", "/advertisement", {"routes": {}})
        plane.node(endpoint, "PUT", "/advertisement", {"routes": {"office": [f"192.168.{count % 251}.0/24"]}})
        costs.setdefault("advertisement", []).append(plane.store.steps)
        plane.admin("GET", f"{AT}/vnis/crowd/members?limit=10")
        costs.setdefault("members", []).append(plane.store.steps)
        plane.admin("PUT", f"{AT}/vnis/office/members/{endpoint.node}", {})
        costs.setdefault("member", []).append(plane.store.steps)
    for name, (few, many) in costs.items():
        assert many <= COST_RATIO_MAX * few + 1, f"{name}: {few} -> {many}"


def test_an_update_at_ten_thousand_devices_is_as_small_as_at_a_hundred(plane: ControlPlane, gateway: Device) -> None:
    plane.admin("POST", f"{AT}/vnis", crowded(prefixes=["10.64.0.0/16"], selectors=[]))
    nodes = populate(plane, 10_000, "crowd")
    call = plane.signed(gateway, "GET", f"{AT}/network?since=0")
    first = plane.send(call)
    assert len(first.body) < 1.5 * 1024 * 1024
    whole = plane.node(gateway, "GET", "/network", type_=Network)
    assert len(whole.members) == 10_001
    assert plane.store.queries <= QUERIES_MAX
    plane.admin("DELETE", f"{AT}/vnis/crowd/members/{nodes[5]}")
    update = plane.send(plane.signed(gateway, "GET", f"{AT}/network?since={whole.revision}&mark={whole.mark}"))
    assert len(update.body) < 1024


# -- what is refused --------------------------------------------------------------------------------------------------

NONSENSE = [
    "127.0.0.0/8", "10.0.0.0/8%eth0", "224.0.0.0/4", "239.1.0.0/16", "0.0.0.0/0", "0.0.0.0/1", "0.1.0.0/16", "169.254.0.0/16",
    "168.0.0.0/6", "240.0.0.0/4", "255.255.255.255/32", "fe80::/10", "fe80::%a b;x/64", "2001:db8::%eth0/64", "::1/128", "::/0",
    "::ffff:10.0.0.0/104", "ff02::/16", "10.7.0.1/24", "office", "", "10.7.0.0/24/8", "::/96",
]  # fmt: skip


@pytest.mark.parametrize("prefix", NONSENSE)
def test_a_prefix_that_no_host_can_have_is_refused_everywhere(
    plane: ControlPlane, gateway: Device, prefix: str
) -> None:
    plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
    endpoint = plane.joined()
    before = plane.state()
    exit_route = prefix in ("0.0.0.0/0", "0.0.0.0/1", "::/0", "168.0.0.0/6")
    maps = [{"vni": "lab", "prefix": "10.8.0.0/24", "seen": prefix}]
    asked: list[Callable[[], object]] = [
        lambda: plane.admin("POST", f"{AT}/vnis", {"name": "yard", "prefixes": [prefix]}),
        lambda: plane.admin("PUT", f"{AT}/vnis/lab", {"name": "lab", "prefixes": ["10.8.0.0/24", prefix]}),
        lambda: plane.admin("POST", f"{AT}/interconnects", {"a": "office", "b": "lab", "maps": maps}),
    ]
    if not exit_route:
        route = {"prefix": prefix, "via": gateway.node}
        asked += [
            lambda: plane.admin("POST", f"{AT}/vnis", {"name": "yard", "prefixes": ["10.9.0.0/24"], "routes": [route]}),
            lambda: plane.node(endpoint, "PUT", "/advertisement", {"routes": {"office": [prefix]}}),
            lambda: plane.admin(
                "PUT", f"{AT}/vnis/office/routes", {"prefix": prefix, "node": endpoint.node, "approved": True}
            ),
        ]
    for ask in asked:
        with pytest.raises(ProblemError) as refused:
            ask()
        assert refused.value.code == "invalid"
    assert plane.state() == before


@pytest.mark.parametrize(
    "prefix", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "192.168.70.0/24", "2001:db8::/32"]
)
def test_an_exit_route_is_a_route(plane: ControlPlane, gateway: Device, prefix: str) -> None:
    endpoint = plane.joined()
    plane.node(endpoint, "PUT", "/advertisement", {"routes": {"office": [prefix]}})
    assert [each["prefix"] for each in plane.admin("GET", f"{AT}/routes")["items"]] == [prefix]


def too_long() -> list[tuple[str, str, dict[str, Any]]]:
    networks = [f"10.{n // 256}.{n % 256}.0/24" for n in range(5000)]
    routes = [{"prefix": network, "via": "gw-a"} for network in networks]
    maps = [{"vni": "office", "prefix": network, "seen": network} for network in networks]
    return [
        ("POST", "/vnis", {"name": "yard", "prefixes": networks[: prefixes.PREFIXES_MAX + 1]}),
        ("POST", "/vnis", {"name": "yard", "prefixes": networks}),
        ("POST", "/vnis", {"name": "yard", "prefixes": []}),
        ("POST", "/vnis", {"name": "yard", "prefixes": ["10.200.0.0/24"], "routes": routes[: vnis.ROUTES_MAX + 1]}),
        ("PUT", "/vnis/office", {"name": "office", "prefixes": networks[: prefixes.PREFIXES_MAX + 1]}),
        (
            "PUT",
            "/vnis/office",
            {
                "name": "office",
                "prefixes": ["10.7.0.0/24"],
                "selectors": [f"tag:{n}" for n in range(vnis.SELECTORS_MAX + 1)],
            },
        ),
        ("PUT", "/vnis/office", {"name": "office", "prefixes": ["10.7.0.0/24"], "selectors": ["tag:" + "x" * 300]}),
        ("POST", "/interconnects", {"a": "office", "b": "lab", "maps": maps[: interconnects.MAPS_MAX + 1]}),
    ]


@pytest.mark.parametrize("at", range(len(too_long())))
def test_a_list_that_is_too_long_is_refused(plane: ControlPlane, gateway: Device, at: int) -> None:
    plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
    method, path, body = too_long()[at]
    before = plane.state()
    with pytest.raises(ProblemError) as refused:
        plane.admin(method, f"{AT}{path}", body)
    assert refused.value.problem.status in (413, 422)
    assert plane.state() == before


def test_an_endpoint_offers_so_much_and_no_more(plane: ControlPlane, gateway: Device) -> None:
    endpoint = plane.joined()
    offers = [f"172.16.{n % 256}.{n // 256 * 64}/26" for n in range(subnet_routes.OFFERS_MAX + 1)]
    plane.node(endpoint, "PUT", "/advertisement", {"routes": {"office": offers[1:]}})
    assert plane.store.queries <= QUERIES_MAX
    with pytest.raises(ProblemError) as refused:
        plane.node(endpoint, "PUT", "/advertisement", {"routes": {"office": offers}})
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    ("networks", "overlap"),
    [
        (["10.0.0.0/8", "10.1.0.0/16"], True),
        (["10.1.0.0/16", "10.0.0.0/8"], True),
        (["10.0.0.0/24", "10.0.0.0/24"], True),
        (["10.0.0.0/25", "10.0.0.128/25", "fd00::/64", "fd00:0:0:1::/64"], False),
        (["10.0.2.0/24", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/22"], True),
    ],
)
def test_prefixes_that_overlap_are_refused(plane: ControlPlane, networks: list[str], overlap: bool) -> None:
    if not overlap:
        assert plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": networks})["prefixes"] == networks
        return
    with pytest.raises(ProblemError, match="overlap"):
        plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": networks})


# -- what the audit says ----------------------------------------------------------------------------------------------


def test_events_of_large_changes_are_small_and_say_what_changed(plane: ControlPlane, gateway: Device) -> None:
    routes = [{"prefix": f"172.16.{n // 16}.{n % 16 * 16}/28", "via": gateway.node} for n in range(vnis.ROUTES_MAX)]
    office = {"name": "office", "prefixes": ["10.7.0.0/24", "fd07::/64"]}
    plane.admin("PUT", f"{AT}/vnis/office", {**office, "routes": routes[:-1]})
    plane.admin("PUT", f"{AT}/vnis/office", {**office, "routes": routes[1:]})
    first, second = plane.audited("vni.changed")
    assert all(len(json.dumps(event)) < EVENT_MAX for event in (first, second))
    detail = second["detail"]
    assert detail["before"]["routes"]["items"] == detail["after"]["routes"]["items"] == len(routes) - 1
    assert detail["before"]["routes"]["sha256"] != detail["after"]["routes"]["sha256"]
    assert detail["before"]["prefixes"] == office["prefixes"]
    assert detail["differences"] == {
        "routes": {"added": [routes[-1]], "added_items": 1, "removed": [routes[0]], "removed_items": 1}
    }
    assert first["detail"]["differences"]["routes"]["added_items"] == len(routes) - 1
    assert len(first["detail"]["differences"]["routes"]["added"]) == 16


def test_a_change_that_was_written_is_told_to_nodes_and_to_the_audit(plane: ControlPlane, gateway: Device) -> None:
    """With a thousand members, where it once failed after the write."""
    populate(plane, 1500)
    plane.admin("POST", f"{AT}/vnis", crowded())
    pushes = plane.connect(gateway)
    plane.admin("DELETE", f"{AT}/vnis/crowd")
    assert [push for push in pushes if isinstance(push, NetworkChanged)]
    assert plane.audited("vni.deleted")[-1]["detail"]["before"]["members"] == 1501


def test_a_tenant_of_two_thousand_devices_is_deleted(plane: ControlPlane, gateway: Device) -> None:
    populate(plane, 2000)
    plane.admin("POST", f"{AT}/vnis", crowded())
    endpoint = plane.joined()
    plane.connect(endpoint)
    plane.node(endpoint, "POST", "/sessions", {})
    plane.admin("DELETE", AT)
    assert plane.store.queries <= QUERIES_MAX
    assert [(cut.gateways, cut.node) for cut in plane.relay.cuts] == [([gateway.node], gateway.node)]
    assert {(node, code) for node, code, _ in plane.sockets["acme"].closed} == {
        (gateway.node, 4003),
        (endpoint.node, 4003),
    }
    assert plane.service("acme").sessions.current() == []


def test_a_number_is_counted_once_and_one_that_an_operator_chose_is_passed_over(plane: ControlPlane) -> None:
    def create(name: str, number: int = 0) -> int:
        made: int = plane.admin("POST", f"{AT}/vnis", {"name": name, "prefixes": ["10.8.0.0/24"], "vni": number})["vni"]
        return made

    first = create("a")
    create("b", first + 1)
    create("c", first + 2)
    create("far", 16_000_000)
    assert create("d") == first + 3
    plane.admin("DELETE", f"{AT}/vnis/d")
    assert create("e") == first + 4
