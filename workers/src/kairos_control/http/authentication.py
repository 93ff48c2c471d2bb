"""Who is calling (docs/protocol.md §3). A refusal has the same shape for every caller and does not say which half
was wrong."""

from __future__ import annotations

import hmac

from kairos.api.problem import ProblemError
from kairos.api.session import SOURCE_HEADER
from kairos.constants import CLOCK_SKEW_S
from kairos.identity.signed_request import DEVICE_HEADER, SIGNATURE_HEADER

from ..fabric import FabricServices
from ..ports import Settings
from ..problems import problem
from ..services.administrators import ROOT, Administrators
from ..services.rate_limits import DEVICE, RELAY_SOURCE
from ..services.signed_requests import SignedRequest
from ..store.devices import StoredDevice
from ..tenant import TenantServices
from .call import Call
from .routing import Caller, Route

_ROLE = {
    Caller.VIEWER: "viewer",
    Caller.NODE_OR_ADMIN: "viewer",
    Caller.OPERATOR: "operator",
    Caller.ADMIN: "tenant-admin",
    Caller.ROOT: ROOT,
}
_EVEN_ISOLATED = ("/events", "/audit")  # an isolated node hears of its release, and its audit events are still taken


def by_headers(route: Route[TenantServices], call: Call) -> bool:
    """Whether headers alone authenticate the caller, so that its body is read after that."""
    return (route.caller in _ROLE or route.caller is Caller.INTERNAL) and not _is_node(route, call)


async def authenticate(tenant: TenantServices, route: Route[TenantServices], call: Call) -> None:
    """Raises a ProblemError unless the caller is one that the route is for."""
    if _is_node(route, call):
        await _require_node(tenant, call)
        return  # there is a device, so the tenant exists
    if route.caller is Caller.INTERNAL:
        require_internal(tenant.platform.settings, call)
        return  # a deleted tenant has housekeeping as well
    if route.caller not in _ROLE:
        return  # a tenant that does not exist has no token and no enrollment that such a caller could name
    name = tenant.platform.tenant
    await _require_administrator(tenant.administrators, call, _ROLE[route.caller], name)
    if not await tenant.store.tenants.exists(name):
        raise problem("not-found", f"there is no tenant {name}")


async def authenticate_again(tenant: TenantServices, route: Route[TenantServices], call: Call) -> None:
    """Checks a caller that waited while others changed the records, by the records as they are now. Raises a
    ProblemError."""
    if not _is_node(route, call):
        await authenticate(tenant, route, call)
        return
    device = await _active_device(tenant, call)
    if device.public_key != call.node.public_key:
        raise problem("bad-signature", "the node's key was rotated meanwhile; sign with the new one")
    _refuse_isolated(tenant, call, device)
    call.device = device


async def authenticate_at_fabric(fabric: FabricServices, caller: Caller, call: Call, tenant: str = "") -> None:
    """For a route of the fabric, or of a tenant that does not exist (`tenant`). Raises a ProblemError."""
    if caller is Caller.INTERNAL:
        require_internal(fabric.platform.settings, call)
    elif caller in _ROLE:
        await _require_administrator(fabric.administrators, call, _ROLE[caller], tenant)


def limit_source(fabric: FabricServices, call: Call) -> None:
    """Counts a call against the address it comes from, and a question of the relay against the address of who knocks there. Before
    it is known whether the tenant exists, so that a spent budget does not tell that. Raises too-many-requests, unauthorized."""
    fabric.limits.take_source(call.source)
    behind = call.headers.get(SOURCE_HEADER.lower(), "")
    if behind and _introspects(call):
        require_internal(fabric.platform.settings, call)
        fabric.limits.take_source(behind, RELAY_SOURCE)


def require_internal(settings: Settings, call: Call) -> None:
    """The relay may ask whose a token is, and nothing else; the rest is for the control plane's own calls. Raises unauthorized."""
    introspects = _introspects(call)
    accepted = settings.introspection_keys if introspects else (settings.internal_key,)
    if not any(hmac.compare_digest(call.bearer.encode(), key.encode()) for key in accepted):
        raise problem("unauthorized", "only the fabric's own Workers may call this")


def _introspects(call: Call) -> bool:
    return call.path.startswith("/internal/introspect/")


def unknown_device(tenant: str, call: Call) -> ProblemError:
    node = call.headers.get(DEVICE_HEADER.lower(), "(none was named)")
    return problem("unknown-device", f"tenant {tenant} has no node {node}; enroll first")


def signed_request_of(call: Call) -> SignedRequest:
    """The part of a call that a signature covers, and the signature."""
    return SignedRequest(call.method, call.target, call.body, call.headers.get(SIGNATURE_HEADER.lower(), ""))


def _is_node(route: Route[TenantServices], call: Call) -> bool:
    return route.caller is Caller.NODE or (route.caller is Caller.NODE_OR_ADMIN and not call.bearer)


async def _require_administrator(administrators: Administrators, call: Call, role: str, tenant: str) -> None:
    """Sets call.administrator, also for one whose role is refused, because the audit names it."""
    call.administrator = await administrators.authenticate(call.bearer)
    call.administrator.require(role, tenant)


async def _require_node(tenant: TenantServices, call: Call) -> None:
    """Sets call.device and call.ahead_s."""
    device = await _active_device(tenant, call)
    call.ahead_s = await tenant.signed_requests.check(signed_request_of(call), device.public_key)
    _refuse_isolated(tenant, call, device)
    tenant.limits.take(DEVICE, device.node)
    tenant.clocks.seen(device.node, call.ahead_s)
    call.device = device


async def _active_device(tenant: TenantServices, call: Call) -> StoredDevice:
    """The device that the call names. Raises unknown-device, revoked, certificate-expired."""
    device = await tenant.store.devices.one(call.headers.get(DEVICE_HEADER.lower(), ""))
    if device is None:
        raise unknown_device(tenant.platform.tenant, call)
    if not device.active:
        raise problem("revoked", device.reason or "ask your operator")
    if device.not_after + CLOCK_SKEW_S < tenant.platform.clock():
        raise problem("certificate-expired", "enroll again with a new join token")
    return device


def _refuse_isolated(tenant: TenantServices, call: Call, device: StoredDevice) -> None:
    """Raises isolated, except on routes that an isolated device may still call."""
    if not call.path.endswith(_EVEN_ISOLATED):
        tenant.store.isolations.refuse(device.node)
