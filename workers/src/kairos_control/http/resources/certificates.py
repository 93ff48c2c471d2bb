"""Certificates of nodes: renewal and rotation by the node, listing and revocation by the operator."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from kairos.api.admin import CertificateRecord, Page, Reason
from kairos.api.enrollment import Certificate, RenewRequest

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window
from ..routing import AT, Caller, Route


class CertificateWindow(Window):
    """The part of the listing that is asked for."""

    node: Annotated[str, Meta(max_length=80)] = ""
    """Only certificates of this node; empty: of all."""


async def renew(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.certificates.renew(call.node, call.decode(RenewRequest)))


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = call.decode_query(CertificateWindow)
    return view.page(await tenant.certificates.page(view.node, view.after, view.fetch), lambda each: each.serial)


async def revoke(tenant: TenantServices, call: Call) -> Reply:
    reason = call.decode(Reason).reason
    return reply(await tenant.certificates.revoke(call.parameters["serial"], reason, call.actor))


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
    Route(
        "GET",
        AT + "/certificates",
        Caller.VIEWER,
        listing,
        "List certificates that have not ended",
        query=CertificateWindow,
        answer=Page[CertificateRecord],
    ),
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
