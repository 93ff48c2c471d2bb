"""Certificates of nodes: renewal and rotation by the node, listing and revocation by the operator."""

from __future__ import annotations

from kairos.api.admin import CertificateRecord, Page, Reason
from kairos.api.enrollment import Certificate, RenewRequest

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def renew(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.enrollments.renew(call)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.certificates.listing(call)


async def revoke(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.certificates.revoke(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/certificates",
        Caller.NODE,
        renew,
        "Renew the certificate, or rotate the key",
        body=RenewRequest,
        answer=Certificate,
        serialized=True,
    ),
    Route("GET", AT + "/certificates", Caller.VIEWER, listing, "List certificates that have not ended", answer=Page),
    Route(
        "POST",
        AT + "/certificates/{serial}/revoke",
        Caller.OPERATOR,
        revoke,
        "Have a certificate refused everywhere from now on",
        body=Reason,
        answer=CertificateRecord,
        serialized=True,
    ),
)
