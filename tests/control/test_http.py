"""Whatever comes in over HTTP is answered in the one shape of errors, and an unauthenticated caller changes nothing and holds up nobody."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane import ADMIN_TOKEN, ControlPlane, Device, arrived
from kairos.api.problem import CONTENT_TYPE, Problem
from kairos.constants import BODY_MAX
from kairos_control.http import app, table
from kairos_control.http.call import Call
from kairos_control.http.routing import Caller, Route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND", "PURGE", "")
SEGMENT = st.sampled_from(("acme", "none", "office", "0", "a" * 80, "a" * 81, "%00", "..", "ü"))
TEXT = st.text(max_size=40)
QUERY = st.dictionaries(
    st.sampled_from(("after", "limit", "version", "first", "second", "event", "vni", "since", "until", "by", "text")),
    st.one_of(TEXT, st.integers().map(str), st.sampled_from(("", "٣", "1e3", "0x1", "9" * 5000, "-1", "nan"))),
    max_size=3,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A request for some route, or for none, with a body, a query and headers that may be anything."""
    route: Route[Any] = draw(st.sampled_from(app.ALL))
    path = re.sub(r"\{(\w+)\}", lambda _: draw(SEGMENT), route.path)
    query = "&".join(f"{name}={quote(value)}" for name, value in draw(QUERY).items())
    body = draw(st.one_of(st.binary(max_size=64), JSON.map(msgspec.json.encode), st.just(b"x" * (BODY_MAX + 1))))
    headers = draw(
        st.dictionaries(
            st.sampled_from(("kairos-device", "kairos-signature", "content-length", "cf-connecting-ip")),
            TEXT,
            max_size=3,
        )
    )
    return Call(draw(st.sampled_from((route.method, *METHODS))), f"{path}?{query}", headers, body)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls(), bearer=st.sampled_from(("", "guess", "kra_0_0")))
def test_any_request_of_a_stranger_is_answered_and_changes_nothing(
    plane: ControlPlane, call: Call, bearer: str
) -> None:
    if bearer:
        call.headers = {**call.headers, "authorization": f"Bearer {bearer}"}
    before = plane.state()
    answer = plane.send(call)
    assert answer.status < 500, answer
    if answer.status >= 400 and call.method != "HEAD":
        assert answer.content_type == CONTENT_TYPE
        assert msgspec.json.decode(answer.body, type=Problem).status == answer.status
    assert plane.state() == before


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls())
def test_any_mistake_of_an_administrator_is_named(plane: ControlPlane, call: Call) -> None:
    call.headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    answer = plane.send(call)
    assert answer.status < 500, answer


@pytest.mark.parametrize(
    "target", ["//[abc", "//[abc/v1/health?limit=1", "//host/v1/health", "//host/v1/tenants/acme", "/v1//health"]
)
def test_a_path_is_a_path_and_never_a_host(plane: ControlPlane, target: str) -> None:
    reply = plane.send(Call("GET", target, {}))
    assert (reply.status, reply.content_type) == (404, CONTENT_TYPE)


def test_a_405_names_the_methods_that_the_resource_takes(plane: ControlPlane) -> None:
    answer = plane.send(Call("PURGE", "/v1/tenants", {}))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_head_is_answered_as_get_is_without_the_body(plane: ControlPlane) -> None:
    get, head = (plane.send(Call(method, "/v1/fabric", {})) for method in ("GET", "HEAD"))
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(get.body)))


def test_a_stranger_does_not_wait_for_an_operator_nor_an_operator_for_strangers(plane: ControlPlane) -> None:
    """300 strangers try every route that changes records while the lock is held: all are answered, and none takes the lock."""
    tenant = plane.service("acme")
    routes = [route for route in table.TENANT if route.serialized and route.caller is not Caller.ANYONE]

    async def scenario() -> list[int]:
        async with tenant.turn:
            attempts = []
            for number in range(300):
                route = routes[number % len(routes)]
                path = re.sub(r"\{(\w+)\}", lambda each: "acme" if each[1] == "tenant" else "0", route.path)
                attempts.append(app.answer_tenant(tenant, *arrived(Call(route.method, path, {}, b"{}"))))
            async with asyncio.timeout(60):
                return [reply.status for reply in await asyncio.gather(*attempts)]

    assert set(asyncio.run(scenario())) == {401}


def test_bodies_of_strangers_take_a_bounded_part_of_memory(plane: ControlPlane, gateway: Device) -> None:
    """Slow uploads beyond that part are refused at once, and an administrator's upload goes on."""
    tenant, hung = plane.service("acme"), asyncio.Event()
    path = "/v1/tenants/acme/enrollments"
    [limit] = [
        route.body_max for route in table.TENANT if (route.method, route.name) == ("POST", "enrollments.request")
    ]
    body = b"x" * limit

    async def slow(limit: int) -> bytes:
        await hung.wait()
        return body

    async def scenario() -> tuple[int, int]:
        uploads = [Call("POST", path, {"content-length": str(len(body))}) for _ in range(24 * 1024 * 1024 // limit)]
        waiting = [asyncio.ensure_future(app.answer_tenant(tenant, call, slow)) for call in uploads[1:]]
        await asyncio.sleep(0)
        refused = await app.answer_tenant(tenant, uploads[0], slow)
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        vni = Call("POST", "/v1/tenants/acme/vnis", headers, b'{"name": "lab", "prefixes": ["10.9.0.0/24"]}')
        served = await app.answer_tenant(tenant, *arrived(vni))
        hung.set()
        await asyncio.gather(*waiting)
        return refused.status, served.status

    assert asyncio.run(scenario()) == (429, 201)


def test_slow_uploads_of_one_source_hold_up_no_node(plane: ControlPlane, gateway: Device) -> None:
    """What a node sends is authenticated by its signature, thus after its body was read; one site of IPv6 is one source."""
    tenant, hung, device = plane.service("acme"), asyncio.Event(), plane.joined()

    async def slow(limit: int) -> bytes:
        await hung.wait()
        return b""

    def upload(number: int) -> Call:
        headers = {"content-length": str(BODY_MAX), "cf-connecting-ip": f"2001:db8:1:{number:x}::1"}
        return Call("POST", "/v1/tenants/acme/audit", headers)

    async def scenario() -> tuple[int, int, int]:
        waiting = [asyncio.ensure_future(app.answer_tenant(tenant, upload(number), slow)) for number in range(80)]
        await asyncio.sleep(0)
        refused = await app.answer_tenant(tenant, upload(80), slow)
        session = plane.signed(device, "POST", "/v1/tenants/acme/sessions", {})
        session.headers = {**session.headers, "cf-connecting-ip": "192.0.2.7"}
        served = await plane.answer(session)
        hung.set()
        await asyncio.gather(*waiting)
        again = await app.answer_tenant(tenant, upload(80), slow)
        return refused.status, served.status, again.status

    assert asyncio.run(scenario()) == (429, 201, 401)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "9" * 40])
def test_a_length_that_is_no_number_is_refused(plane: ControlPlane, length: str) -> None:
    call = Call(
        "POST", "/v1/tenants/acme/enrollments", {"content-length": length, "transfer-encoding": "chunked"}, b"{}"
    )
    assert plane.send(call).status == 411
