"""A tenant that does not exist answers like one that the caller has no part in: names cannot be found out by trying."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest

from control_plane import ADMIN_TOKEN, INTERNAL_KEY, ControlPlane, Device, arrived
from kairos.api.problem import Problem
from kairos_control.fabric import FabricServices
from kairos_control.http import app, table
from kairos_control.http.call import Call, Reply
from kairos_control.http.resources.internal import introspect
from kairos_control.http.routing import Caller, Route

ADMINISTRATORS = (Caller.VIEWER, Caller.OPERATOR, Caller.ADMIN, Caller.ROOT, Caller.NODE_OR_ADMIN)


def stranger(plane: ControlPlane, call: Call) -> Reply:
    return asyncio.run(app.answer_stranger(FabricServices(plane.platform, plane.limits), *arrived(call)))


def path_of(route: Route[Any], name: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda each: name if each[1] == "tenant" else "nothing", route.path)


def bodies(plane: ControlPlane) -> list[bytes]:
    outsider, token = Device(), plane.token()
    guessed = msgspec.structs.replace(plane.request(outsider, token), token_secret=bytes(32))
    return [b"", b"{", b"{}", msgspec.json.encode(guessed), bytes(300_000)]


@pytest.mark.parametrize("route", table.TENANT, ids=lambda route: f"{route.method} {route.path}")
def test_an_outsider_cannot_tell(plane: ControlPlane, gateway: Device, route: Route[Any]) -> None:
    for body in bodies(plane):
        for headers in ({}, {"authorization": "Bearer guess"}, {"kairos-device": Device().node}):
            here = plane.send(Call(route.method, path_of(route, "acme"), headers, body))
            there = stranger(plane, Call(route.method, path_of(route, "none"), headers, body))
            assert there.status == here.status >= 400
            assert there.body.replace(b"none", b"acme") == here.body.replace(b"none", b"acme")


@pytest.mark.parametrize(
    ("caller", "key"),
    [*((caller, ADMIN_TOKEN) for caller in ADMINISTRATORS), (Caller.INTERNAL, INTERNAL_KEY)],
)
def test_who_may_know_is_told(plane: ControlPlane, caller: Caller, key: str) -> None:
    for route in table.TENANT:
        if route.caller is caller and route.handler is not introspect:
            call = Call(route.method, path_of(route, "none"), {"authorization": f"Bearer {key}"})
            said = msgspec.json.decode(stranger(plane, call).body, type=Problem)
            assert (said.code, said.detail) == ("not-found", "there is no tenant none")


@pytest.mark.parametrize("token", ["{}.guess", "{}." + "x" * 2000])
def test_who_knocks_at_the_relay_cannot_tell(plane: ControlPlane, token: str) -> None:
    """The relay passes on what it hears of a token, and the token names its tenant."""
    headers, answers = {"authorization": f"Bearer {INTERNAL_KEY}"}, []
    for name in ("acme", "none"):
        body = msgspec.json.encode({"token": token.format(name), "gateway": "gw-aaaaaaaaaaaaaaaa"})
        reply = plane.send(Call("POST", f"/internal/introspect/{name}", headers, body))
        answers.append((reply.status, reply.body.replace(b"none", b"acme")))
    assert answers[0] == answers[1]
    assert answers[0][0] in (401, 422)
