"""Every field of a request has a bound, and what is beyond one is refused as that, with nothing stored."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from request_values import Unbounded, cases

from control_plane import ADMIN_TOKEN, INTERNAL_KEY, ROOT, ControlPlane, Device, answer
from kairos.api import bounds
from kairos.api.problem import ProblemError
from kairos.api.push import ToFabric, parse_to_fabric_untrusted
from kairos.api.session import Cut
from kairos.errors import BadMessage
from kairos.identity.signed_request import DEVICE_HEADER
from kairos_control.http.call import Call
from kairos_control.http.routing import Caller, Route
from kairos_control.http.table import FABRIC, TENANT

# Batches of audit events are bounded where the audit takes them in.
ALL: tuple[Route[Any], ...] = (*TENANT, *FABRIC)
ROUTES = [route for route in ALL if route.body is not None and route.body.__module__.startswith("kairos.api.")]
REQUESTS = sorted({route.body for route in ROUTES} | {Cut}, key=lambda type_: str(type_.__name__))


@pytest.mark.parametrize("type_", [*REQUESTS, *get_args(ToFabric)], ids=lambda type_: str(type_.__name__))
def test_every_field_has_a_bound_and_is_refused_beyond_it(type_: Any) -> None:
    assert cases(type_)
    for path, body in cases(type_):
        call = Call("POST", "/", {}, body)
        with pytest.raises(ProblemError) as error:
            call.decode(type_)
        assert (error.value.code, error.value.problem.status) == ("invalid", 422), path


def test_a_message_of_a_node_beyond_a_bound_is_none() -> None:
    for type_ in get_args(ToFabric):
        for path, body in cases(type_):
            with pytest.raises(BadMessage):
                parse_to_fabric_untrusted(body)
            assert path


def call_of(plane: ControlPlane, route: Route[Any], node: Device, body: bytes) -> Call:
    """Such a call by one who may make it."""
    path = re.sub(r"\{(\w+)\}", lambda each: "acme" if each[1] == "tenant" else node.node, route.path)
    if route.caller in (Caller.NODE, Caller.JOINING):
        return plane.signed(node, route.method, path, body)
    key = INTERNAL_KEY if route.caller is Caller.INTERNAL else ADMIN_TOKEN
    return Call(route.method, path, {"authorization": f"Bearer {key}"}, body)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_refuses_what_is_beyond_a_bound(plane: ControlPlane, gateway: Device, route: Route[Any]) -> None:
    before = plane.state()
    for path, body in cases(route.body):
        call = call_of(plane, route, gateway, body)
        assert DEVICE_HEADER.lower() in call.headers or route.caller is not Caller.NODE
        with pytest.raises(ProblemError) as error:
            answer(plane.send(call), Any)
        assert error.value.code in ("invalid", "body-too-large", "too-many-requests"), (path, error.value.code)
    assert plane.state() == before


def test_what_has_no_bound_is_found() -> None:
    with pytest.raises(Unbounded, match=r"^\$$"):
        cases(list[int])


def test_the_bounds_are_documented() -> None:
    documented = (ROOT / "docs/api.md").read_text()
    for name in (name for name in vars(bounds) if name.endswith("_MAX")):
        assert f"`{name}` | {getattr(bounds, name):,} |" in documented, name
