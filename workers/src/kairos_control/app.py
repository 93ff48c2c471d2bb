"""From a call to its reply, at both places that answer calls: the Worker's entrypoint and a Tenant object."""

from __future__ import annotations

from contextlib import nullcontext

from kairos.api.admin import AdminCreate, AdminRecord, Page, Tenant, TenantCreate
from kairos.api.enrollment import EnrollRequest, FabricInfo
from kairos.api.problem import ProblemError
from kairos.constants import BODY_MAX

from . import fabric, metrics, openapi, tenant
from .administrators import bearer, require_administrator
from .authentication import require_internal, unknown_device
from .enrollment import unknown_enrollment, unknown_token
from .http import Call, Reply, problem_reply, reply
from .ports import Platform
from .problems import problem
from .routing import Caller, Route, find
from .tenant import TenantService

ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/fabric", Caller.ANYONE, fabric.info, "What anyone may know of this fabric", answer=FabricInfo),
    Route("GET", "/v1/health", Caller.ANYONE, fabric.health, "It answers, and its database does", answer=dict),
    Route("GET", "/v1/metrics", Caller.VIEWER, metrics.show, "For Prometheus: records, counted", answer=bytes),
    Route("GET", "/v1/openapi.json", Caller.ANYONE, lambda _, call: document(), "This document", answer=dict),
    Route("POST", "/v1/tenants", Caller.ROOT, fabric.create_tenant, "Create a tenant", TenantCreate, Tenant, 201),
    Route("GET", "/v1/tenants", Caller.VIEWER, fabric.list_tenants, "List tenants", answer=Page),
    Route(
        "POST",
        "/v1/admins",
        Caller.ROOT,
        fabric.create_admin,
        "Make a credential for all tenants",
        AdminCreate,
        AdminRecord,
        201,
    ),
    Route("GET", "/v1/admins", Caller.ROOT, fabric.list_admins, "List credentials for all tenants", answer=Page),
    Route(
        "DELETE",
        "/v1/admins/{admin}",
        Caller.ROOT,
        fabric.revoke_admin,
        "Revoke a credential for all tenants",
        status=204,
    ),
)


async def document() -> Reply:
    return reply(openapi.document((*ROUTES, *tenant.ROUTES)))


async def answer(platform: Platform, call: Call) -> Reply:
    """A call that belongs to no tenant."""
    try:
        route = find(ROUTES, call)
        _check_size(route, call)
        if route.caller is not Caller.ANYONE:
            await require_administrator(platform, route.caller, call)
        return await route.handler(platform, call)
    except ProblemError as error:
        return problem_reply(error, call.path)


async def answer_tenant(service: TenantService, call: Call) -> Reply:
    """A call of one tenant, inside its object. What it did is in the audit's queue before it is answered."""
    try:
        route = find(tenant.ROUTES, call)
        _check_size(route, call)
        async with service.turn if route.alone else nullcontext():
            await service.authenticate(route, call)
            return await route.handler(service, call)
    except ProblemError as error:
        service.refusals.record(call, error)
        return problem_reply(error, call.path)
    finally:
        await service.journal.flush()


async def exists(platform: Platform, name: str) -> bool:
    return await platform.store.first("SELECT 1 FROM tenants WHERE tenant = ?", name) is not None


async def answer_stranger(platform: Platform, call: Call) -> Reply:
    """A call for a tenant that does not exist. No object is made for it, and it hears what it would hear from a tenant that it
    has no part in: who may not know of a tenant cannot find out by its name."""
    try:
        route = find(tenant.ROUTES, call)
        _check_size(route, call)
        raise await _strange(platform, route, call)
    except ProblemError as error:
        return problem_reply(error, call.path)


async def _strange(platform: Platform, route: Route, call: Call) -> ProblemError:
    name = tenant_of(call.path)
    if route.caller is Caller.JOINING:
        call.decode(EnrollRequest)
        return unknown_token()
    if route.caller is Caller.ANYONE:
        return unknown_enrollment()
    if route.caller is Caller.NODE or (route.caller is Caller.NODE_OR_ADMIN and not bearer(call)):
        return unknown_device(name, call)
    if route.caller is Caller.INTERNAL:
        require_internal(platform.settings, call)
    else:
        await require_administrator(platform, route.caller, call, name)
    return problem("not-found", f"there is no tenant {name}")


def tenant_of(path: str) -> str:
    """The tenant whose object answers this path; empty: none does."""
    parts = path.split("/")
    if path.startswith("/v1/tenants/") and len(parts) >= 4:
        return parts[3]
    if path.startswith(("/internal/introspect/", "/internal/sweep/", "/internal/audit/")) and len(parts) == 4:
        return parts[3]
    return ""


def body_max(method: str, path: str) -> int:
    """How much a request of this method and path may carry."""
    try:
        return find((*ROUTES, *tenant.ROUTES), Call(method, path, {})).body_max
    except ProblemError:
        return BODY_MAX


def failure(call: Call, error: Exception) -> Reply:
    """Our own defect: logged whole, told without its inside."""
    print(f"{call.method} {call.path} failed: {type(error).__name__}: {error}")
    return problem_reply(problem("internal", "this is a defect of the fabric; its log has more"), call.path)


def _check_size(route: Route, call: Call) -> None:
    if len(call.body) > route.body_max:
        raise problem("body-too-large", f"at most {route.body_max} bytes here")
