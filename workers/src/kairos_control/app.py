"""From a call to its reply, at both places that answer calls: the Worker's entrypoint and a Tenant object."""

from __future__ import annotations

from kairos.api.admin import Page, Tenant, TenantCreate
from kairos.api.enrollment import FabricInfo
from kairos.api.problem import ProblemError
from kairos.constants import BODY_MAX

from . import fabric, openapi, tenant
from .authentication import require_admin
from .http import Call, Reply, problem_reply, reply
from .ports import Platform
from .problems import problem
from .routing import Caller, Route, find
from .tenant import TenantService

ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/fabric", Caller.ANYONE, fabric.info, "What anyone may know of this fabric", answer=FabricInfo),
    Route("GET", "/v1/health", Caller.ANYONE, fabric.health, "It answers, and its database does", answer=dict),
    Route("GET", "/v1/openapi.json", Caller.ANYONE, lambda _, call: document(), "This document", answer=dict),
    Route("POST", "/v1/tenants", Caller.ADMIN, fabric.create_tenant, "Create a tenant", TenantCreate, Tenant, 201),
    Route("GET", "/v1/tenants", Caller.ADMIN, fabric.list_tenants, "List tenants", answer=Page),
)


async def document() -> Reply:
    return reply(openapi.document((*ROUTES, *tenant.ROUTES)))


async def answer(platform: Platform, call: Call) -> Reply:
    """A call that belongs to no tenant."""
    try:
        route = find(ROUTES, call)
        _check_size(route, call)
        if route.caller is Caller.ADMIN:
            require_admin(platform.settings, call)
        return await route.handler(platform, call)
    except ProblemError as error:
        return problem_reply(error, call.path)


async def answer_tenant(service: TenantService, call: Call) -> Reply:
    """A call of one tenant, inside its object. What it did is in the audit's queue before it is answered."""
    try:
        route = find(tenant.ROUTES, call)
        _check_size(route, call)
        await service.authenticate(route, call)
        return await route.handler(service, call)
    except ProblemError as error:
        service.refusals.record(call, error)
        return problem_reply(error, call.path)
    finally:
        await service.journal.flush()


def tenant_of(path: str) -> str:
    """The tenant whose object answers this path; empty: none does."""
    parts = path.split("/")
    if path.startswith("/v1/tenants/") and len(parts) >= 4:
        return parts[3]
    if path.startswith(("/internal/introspect/", "/internal/sweep/")) and len(parts) == 4:
        return parts[3]
    return ""


def failure(call: Call, error: Exception) -> Reply:
    """Our own defect: logged whole, told without its inside."""
    print(f"{call.method} {call.path} failed: {type(error).__name__}: {error}")
    return problem_reply(problem("internal", "this is a defect of the fabric; its log has more"), call.path)


def _check_size(route: Route, call: Call) -> None:
    if len(call.body) > route.body_max:
        raise problem("body-too-large", f"at most {route.body_max} bytes here; {BODY_MAX} elsewhere")
