"""Whatever is sent to the routes of enrollment, certificates, tokens, devices and gateways: a refusal has the one shape of refusals, it
is never the fabric's fault, and it leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect
from request_values import fitting

from control_plane import ADMIN_TOKEN, ControlPlane, Device
from kairos.api.problem import CONTENT_TYPE, Problem
from kairos_control.http.call import Call, Reply
from kairos_control.http.resources import certificates, devices, enrollments, gateways, tokens
from kairos_control.http.routing import Caller, Route

ROUTES: list[Route[Any]] = [
    *enrollments.ROUTES,
    *certificates.ROUTES,
    *tokens.ROUTES,
    *devices.ROUTES,
    *gateways.ROUTES,
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "post", "")
NUMBERS = ("", "0", "-1", "1", "1e9", "1000", "1001", "9" * 26, "9" * 500, "٣", "0.5", "NaN", "9007199254740993")


class Tried:
    """A fabric with a gateway, an endpoint and a token, made anew whenever a call was taken that changes something."""

    def __init__(self) -> None:
        self.plane: ControlPlane | None = None

    def fresh(self) -> ControlPlane:
        if self.plane is None:
            self.plane = plane = ControlPlane()
            plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
            plane.admin("POST", "/v1/tenants/acme/vnis", {"name": "office", "prefixes": ["10.7.0.0/16"]})
            self.gateway, self.device, self.token = plane.joined("gateway"), Device(), plane.token(uses=9)
            plane.enroll(self.device, self.token)
        self.plane.now += 1  # so that no budget of calls ends
        return self.plane

    def names(self) -> dict[str, str]:
        """What stands for the names of things that are there."""
        return {"GATEWAY": self.gateway.node, "DEVICE": self.device.node, "TOKEN": self.token.record.token_id}

    def close(self) -> None:
        if self.plane is not None:
            self.plane.close()
            self.plane = None


@pytest.fixture(scope="module")
def tried() -> Iterator[Tried]:
    tried = Tried()
    yield tried
    tried.close()


def _mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 7).flatmap(lambda number: odd if number == 7 else usual)


def any_json() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    return st.recursive(leaves, lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=8), some))


def encoded(text: str, encoding: str) -> bytes:
    """In an encoding of which the fabric speaks one."""
    octets = text.encode("utf-16" if encoding == "utf-16" else "utf-8", "surrogatepass")
    match encoding:
        case "mark":
            return b"\xef\xbb\xbf" + octets
        case "gzip":
            return gzip.compress(octets, mtime=0)
        case "cut":
            return octets[:-1]
    return octets


@st.composite
def bodies(draw: st.DrawFn, route: Route[Any]) -> bytes:
    """Octets, JSON of any form, or what the route takes with one field as it should not be; up to more than the route takes."""
    kind = draw(st.sampled_from(["almost", "almost", "almost", "json", "octets", "none", "long", "deep"]))
    if kind == "none":
        return b""
    if kind == "octets":
        return draw(st.binary(max_size=200))
    if kind == "long":
        return b" " * (route.body_max + draw(st.integers(0, 1)))
    if kind == "deep":
        return b"[" * draw(st.integers(1, 20_000))
    value = draw(any_json())
    if kind == "almost" and route.body is not None:
        whole: dict[str, Any] = fitting(inspect.type_info(route.body))
        fields = [each.name for each in msgspec.structs.fields(route.body)]
        value = whole | {draw(st.sampled_from(fields)): value}
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    return encoded(text, draw(_mostly(st.just("utf-8"), st.sampled_from(["utf-16", "mark", "gzip", "cut"]))))


@st.composite
def headers(draw: st.DrawFn) -> dict[str, str]:
    """Credentials and lengths, right, wrong or none."""
    said = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    if draw(st.booleans()):
        return said
    for name, values in {
        "authorization": [f"Bearer {ADMIN_TOKEN}", "Bearer ", "Basic x", "Bearer kra_0123456789abcdef_" + "A" * 43],
        "content-length": ["0", "-1", "1e3", "9" * 30, "٣", "300000"],
        "transfer-encoding": ["chunked"],
        "content-encoding": ["gzip"],
        "cf-connecting-ip": ["2001:db8::1", "", "no address"],
        "kairos-device": ["ep-aaaaaaaaaaaaaaaa", "", "x" * 500],
        "kairos-signature": ["", "v=1", "x" * 900, "t=1,n=AA,s=AA"],
    }.items():
        said |= {name: draw(st.sampled_from(values))} if draw(st.booleans()) else {}
    return said


@st.composite
def paths(draw: st.DrawFn, route: Route[Any]) -> str:
    """Of the route, with names that are there, are not there, or can be none."""
    odd = st.text(max_size=90) | st.sampled_from(["..", ".", "%00", "a" * 80, "a" * 81])
    name = _mostly(st.sampled_from(["GATEWAY", "DEVICE", "TOKEN", "0" * 32, "nothing"]), odd)
    path = re.sub(r"\{(\w+)\}", lambda each: "acme" if each[1] == "tenant" else draw(name), route.path)
    if draw(st.booleans()):
        return path
    query = draw(st.just("") | st.text(max_size=30) | st.sampled_from(NUMBERS).map(lambda number: f"limit={number}"))
    after = draw(st.just("") | st.text(max_size=300))
    return f"{path}?{query}&after={after}" if query or after else path


@dataclass(frozen=True)
class Drawn:
    """A call, before the names in it are those of a fabric."""

    method: str
    target: str
    body: bytes
    headers: dict[str, str]
    """Empty for a call that is signed."""
    signer: int | None
    """Who signs it: the gateway, the endpoint, or a key that nobody knows."""


@st.composite
def calls(draw: st.DrawFn, route: Route[Any]) -> Drawn:
    method = draw(_mostly(st.just(route.method), st.sampled_from(METHODS)))
    target, body = draw(paths(route)), draw(bodies(route))
    if route.caller in (Caller.NODE, Caller.JOINING) or draw(st.integers(0, 9)) == 9:
        return Drawn(method, target, body, {}, draw(st.integers(0, 2)))
    return Drawn(method, target, body, draw(headers()), None)


def check(plane: ControlPlane, call: Call, before: Any) -> Reply:
    """Sends it by the way of the Worker's entrypoint. Fails unless a refusal is as refusals are."""
    reply = plane.send(call)
    assert reply.status < 500, (call.method, call.target, reply.body)
    if reply.status >= 400:
        assert reply.content_type == CONTENT_TYPE
        if call.method != "HEAD":
            said = msgspec.json.decode(reply.body, type=Problem)
            assert (said.status, bool(said.detail)) == (reply.status, True)
        assert plane.state() == before
    return reply


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=st.sampled_from(ROUTES).flatmap(calls))
def test_whatever_is_sent(tried: Tried, call: Drawn) -> None:
    plane = tried.fresh()
    target = call.target
    for name, value in tried.names().items():
        target = target.replace(name, value)
    if call.signer is None:
        sent = Call(call.method, target, call.headers, call.body)
    else:
        sent = plane.signed((tried.gateway, tried.device, Device())[call.signer], call.method, target, call.body)
    reply = check(plane, sent, plane.state())
    if reply.status < 400 and call.method not in ("GET", "HEAD"):
        tried.close()
