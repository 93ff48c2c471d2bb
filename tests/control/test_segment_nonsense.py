"""Whatever is asked of VNIs, members, interconnects, routes and the network: it is refused in the one shape of errors, or done."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane import ADMIN_TOKEN, ControlPlane, Device
from kairos.api.problem import CONTENT_TYPE, Problem
from kairos_control.http.call import Call, Reply

AT = "/v1/tenants/acme"
PATHS = {
    "POST": ["/vnis", "/interconnects"],
    "PUT": ["/vnis/office", "/vnis/office/members/{node}", "/vnis/office/routes"],
    "GET": [
        "/vnis",
        "/vnis/office",
        "/vnis/office/members",
        "/interconnects",
        "/interconnects/office/office",
        "/routes",
    ],
    "DELETE": ["/vnis/nothing", "/vnis/office/members/nothing", "/interconnects/office/nothing"],
}
ASKED = [(method, path) for method, paths in PATHS.items() for path in paths]
numbers = st.one_of(st.integers(), st.sampled_from([0, -1, 1 << 24, 1 << 53, 1 << 63, 1 << 70]), st.floats())
texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "",
            "office",
            "10.7.0.0/24",
            "0.0.0.0/0",
            "fe80::%a b;x/64",
            "tag:",
            "tag:\0",
            "1" * 5000,
            "x" * 100_000,
            "😀" * 400,
        ]
    ),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
fields = [
    "name",
    "prefixes",
    "vni",
    "mtu",
    "dns_suffix",
    "routes",
    "selectors",
    "a",
    "b",
    "maps",
    "addresses",
    "prefix",
    "node",
    "approved",
]
networks = st.one_of(
    texts, st.sampled_from(["10.7.0.0/24", "10.8.0.0/16", "fd07::/64", "172.16.0.0/12", "::/0", "10.9.0.0/30"])
)
almost = st.fixed_dictionaries(
    {"name": st.one_of(st.sampled_from(["office", "lab", "yard"]), texts), "prefixes": st.lists(networks, max_size=4)},
    optional={
        "vni": numbers,
        "mtu": st.one_of(st.integers(1200, 9100), numbers),
        "dns_suffix": texts,
        "routes": st.lists(st.fixed_dictionaries({"prefix": networks, "via": texts}), max_size=3),
        "selectors": st.lists(texts, max_size=3),
    },
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(fields), values, max_size=8).map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    almost.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b"[" * 50_000,
            b"{}",
            b'{"name":"\\ud800","prefixes":[]}',
            b"\xff\xfe{}",
            b'{"vni":' + b"9" * 400 + b"}",
            b"nul",
        ]
    ),
)
queries = st.dictionaries(
    st.sampled_from(["after", "limit", "since", "mark"]), st.one_of(texts, numbers.map(str), st.just("٣")), max_size=4
)
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class World:
    """One fabric for all examples: most change nothing, and those that do are still a tenant."""

    def __init__(self) -> None:
        self.plane = ControlPlane()
        self.plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
        self.plane.admin("POST", f"{AT}/vnis", {"name": "office", "prefixes": ["10.7.0.0/24"]})
        self.gateway, self.endpoint = self.plane.joined("gateway"), self.plane.joined()

    def admin(self, method: str, path: str, body: bytes) -> Reply:
        return self.plane.send(Call(method, path, {"authorization": f"Bearer {ADMIN_TOKEN}"}, body))


@pytest.fixture(scope="module")
def world() -> Any:
    world = World()
    yield world
    world.plane.close()


def checked(world: World, reply: Reply, before: dict[str, Any]) -> None:
    """Done, or refused with nothing stored."""
    assert reply.status < 500
    if reply.status >= 400:
        assert reply.content_type == CONTENT_TYPE
        assert msgspec.json.decode(reply.body, type=Problem).status == reply.status
        assert world.plane.state() == before


def encoded(query: dict[str, str]) -> str:
    pairs = "&".join(f"{name}={quote(value, errors='replace')}" for name, value in query.items())
    return f"?{pairs}" if pairs else ""


@RELAXED
@given(st.sampled_from(ASKED), bodies, queries)
def test_whatever_an_administrator_sends(
    world: World, asked: tuple[str, str], body: bytes, query: dict[str, str]
) -> None:
    method, path = asked
    path = path.replace("{node}", world.endpoint.node)
    before = world.plane.state()
    world.plane.now += 60
    checked(world, world.admin(method, f"{AT}{path}{encoded(query)}", body), before)


@RELAXED
@given(st.sampled_from(["/vnis/{}", "/vnis/{}/members", "/interconnects/{}/office"]), st.text(max_size=100))
def test_whatever_a_name_is(world: World, path: str, name: str) -> None:
    before = world.plane.state()
    target = path.format(quote(name, safe="", errors="replace"))
    checked(world, world.admin("GET", f"{AT}{target}", b""), before)


@RELAXED
@given(st.sampled_from(["endpoint", "gateway"]), queries)
def test_whatever_a_node_asks_of_the_network(world: World, role: str, query: dict[str, str]) -> None:
    device: Device = getattr(world, role)
    before = world.plane.state()
    world.plane.now += 60
    reply = world.plane.send(world.plane.signed(device, "GET", f"{AT}/network{encoded(query)}"))
    checked(world, reply, before)
    if "since" not in query and reply.status == 200:
        assert re.search(rb'"members":\[', reply.body)


@RELAXED
@given(
    st.one_of(
        bodies,
        st.dictionaries(texts, st.lists(texts, max_size=5), max_size=4).map(
            lambda routes: json.dumps({"routes": routes}).encode()
        ),
    )
)
def test_whatever_a_node_offers(world: World, body: bytes) -> None:
    before = world.plane.state()
    world.plane.now += 60
    checked(world, world.plane.send(world.plane.signed(world.endpoint, "PUT", f"{AT}/advertisement", body)), before)
