"""Refused calls, for the audit: every refused enrollment, and every request that could not prove what it claimed."""

from __future__ import annotations

from kairos.api.problem import ProblemError
from kairos.identity.signed_request import DEVICE_HEADER

from ..fabric import FabricServices
from ..services.refusals import prefix_of
from ..tenant import TenantServices
from .call import Call

_UNPROVEN = (401, 403)


def record(tenant: TenantServices, call: Call, error: ProblemError) -> None:
    """Hands it to the tenant's refusals, unless it is merely a mistake of an operator."""
    enrolling = "/enrollments" in call.path
    if not enrolling and error.problem.status not in _UNPROVEN:
        return
    tenant.refusals.record(
        "enrollment.refused" if enrolling else "request.refused",
        actor=call.actor or call.headers.get(DEVICE_HEADER.lower(), call.source),
        subject=f"{call.method} {call.path}",
        reason=error.code,
        source=call.actor or prefix_of(call.source),
    )


async def record_at_fabric(fabric: FabricServices, call: Call, error: ProblemError) -> None:
    """Of a call that belongs to no tenant."""
    if error.problem.status in _UNPROVEN:
        own = call.administrator.tenant if call.administrator else ""
        await fabric.refusals.record(call.method, call.path, error.code, call.actor, own)
