"""Refused calls, for the audit: every refused enrollment, and every request that could not prove what it claimed.

Anyone may be refused as often as they like, so a tenant records a bounded number a minute and counts the rest.
"""

from __future__ import annotations

from kairos.api.problem import ProblemError
from kairos.identity.signed_request import DEVICE_HEADER

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
    )
