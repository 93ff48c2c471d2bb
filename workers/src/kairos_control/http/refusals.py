"""Refused calls, for the audit: every refused enrollment, and every request that could not prove what it claimed."""

from __future__ import annotations

from kairos.api.problem import ProblemError
from kairos.identity.signed_request import DEVICE_HEADER

from ..fabric import FabricServices
from ..services.rate_limits import site_of
from ..tenant import TenantServices
from .call import Call

_UNPROVEN = (401, 403)


def record(tenant: TenantServices, call: Call, error: ProblemError) -> None:
    """Hands it to the tenant's refusals, unless it is merely a mistake of an operator."""
    enrolling = "/enrollments" in call.path
    if not enrolling and error.problem.status not in _UNPROVEN:
        return
    actor, source, known = _who(tenant, call)
    tenant.refusals.record(
        "enrollment.refused" if enrolling else "request.refused",
        actor=actor,
        subject=f"{call.method} {call.path}",
        reason=error.code,
        source=source,
        proven=known,
    )


def _who(tenant: TenantServices, call: Call) -> tuple[str, str, bool]:
    """(the caller as the audit names it, whose shares it takes, whether it is proven to be one of this tenant's)

    An administrator of another tenant may have the name of one of this tenant's, and as many credentials as it likes.
    """
    administrator = call.administrator
    if administrator is not None and administrator.tenant not in ("", tenant.platform.tenant):
        return f"{administrator.actor} of tenant {administrator.tenant}", f"tenant {administrator.tenant}", False
    if call.actor:
        return call.actor, call.actor, True
    return call.headers.get(DEVICE_HEADER.lower(), call.source), site_of(call.source), False


async def record_at_fabric(fabric: FabricServices, call: Call, error: ProblemError) -> None:
    """Of a call that belongs to no tenant."""
    if error.problem.status in _UNPROVEN:
        own = call.administrator.tenant if call.administrator else ""
        await fabric.refusals.record(call.method, call.path, error.code, call.actor, own)
