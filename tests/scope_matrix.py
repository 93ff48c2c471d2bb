"""The scope matrix: every route of the API by every kind of caller, in the own tenant and in another's, tried for real.

What each caller may do is read in docs/api.md, not in the route table: the table is what is under test.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from control_plane import ADMIN_TOKEN, INTERNAL_KEY, ControlPlane, Device
from kairos.api.admin import ROLES, AdminCreate, AdminRecord
from kairos.api.problem import Problem
from kairos.identity.admin_credential import AdminCredential
from kairos_control.http import app
from kairos_control.http.call import Call
from kairos_control.http.routing import Route

ALL = app.ALL
DOCUMENT = (Path(__file__).parents[1] / "docs/api.md").read_text()
STRENGTH = ("viewer", "operator", "tenant-admin", "root")
REFUSED = {"unauthorized", "out-of-scope", "unknown-device", "wrong-role"}
Send = Callable[[Route[Any], str], Call]


def documented(route: Route[Any]) -> str:
    """The words with which its section begins."""
    [words] = re.findall(rf"^### {re.escape(f'{route.method} {route.path}')}\n([^.(]*)", DOCUMENT, re.MULTILINE)
    return str(words).strip().lower()


def may(caller: str, bound_to: str, route: Route[Any], name: str) -> bool:
    """By the document, whether `caller`, an administrator of tenant `bound_to` (empty: all) or a node of it, passes."""
    who = documented(route)
    if who.startswith(("anyone", "whoever", "joining", "the signature")):
        return True
    if "{tenant}" in route.path and bound_to not in ("", name):
        return False
    if caller in ("endpoint", "gateway"):
        return who.startswith(("node", caller))
    if caller == "worker":
        return who == "worker"
    needed = who.removeprefix("node or ")
    return caller in STRENGTH and needed in STRENGTH and STRENGTH.index(caller) >= STRENGTH.index(needed)


def path_of(route: Route[Any], name: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda each: name if each[1] == "tenant" else "0", route.path)


def credential(plane: ControlPlane, role: str, name: str = "", by: str = ADMIN_TOKEN, **fields: int) -> AdminCredential:
    secret = os.urandom(32)
    wanted = AdminCreate("somebody", role, hashlib.sha256(secret).digest(), **fields)  # type: ignore[arg-type]
    path = f"/v1/tenants/{name}/admins" if name else "/v1/admins"
    return AdminCredential(plane.admin("POST", path, wanted, AdminRecord, token=by).admin, secret)


def bearing(token: str) -> Send:
    def call(route: Route[Any], name: str) -> Call:
        return Call(route.method, path_of(route, name), {"authorization": f"Bearer {token}"}, b"")

    return call


def signed_by(plane: ControlPlane, device: Device) -> Send:
    return lambda route, name: plane.signed(device, route.method, path_of(route, name))


def callers(plane: ControlPlane) -> Iterator[tuple[str, str, Send]]:
    """(who, of which tenant, how it calls)"""
    yield "nobody", "", lambda route, name: Call(route.method, path_of(route, name), {}, b"")
    yield "guesser", "", bearing(f"kra_{'0' * 16}_{'A' * 43}")
    yield "worker", "", bearing(INTERNAL_KEY)
    gateway = plane.joined("gateway")
    yield "endpoint", "acme", signed_by(plane, plane.joined())
    yield "gateway", "acme", signed_by(plane, gateway)
    for role in ROLES:
        yield role, "acme", bearing(str(credential(plane, role, "acme")))
        yield role, "", bearing(str(credential(plane, role)))
    yield "root", "", bearing(ADMIN_TOKEN)


def refused(plane: ControlPlane, call: Call) -> bool:
    reply = plane.send(call)
    return reply.status in (401, 403) and msgspec.json.decode(reply.body, type=Problem).code in REFUSED


def violations(plane: ControlPlane) -> tuple[int, list[str]]:
    """How many calls were tried, and those that were let through or turned away against the document, or were turned away and
    changed something. The plane has tenant acme."""
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    plane.admin("GET", "/v1/tenants/rival")  # so that its object is there, and its tables count as state
    found, tried = [], 0
    last = sorted(ALL, key=lambda route: (route.method, route.path) == ("DELETE", "/v1/tenants/{tenant}"))
    for who, bound_to, call in callers(plane):
        for route in last:
            for name in ("acme", "rival") if "{tenant}" in route.path else ("",):
                before, allowed = plane.state(), may(who, bound_to, route, name)
                was_refused = refused(plane, call(route, name))
                tried += 1
                if was_refused is allowed or (was_refused and plane.state() != before):
                    found.append(f"{who} of {bound_to or 'all'}: {route.method} {path_of(route, name)}")
    return tried, found
