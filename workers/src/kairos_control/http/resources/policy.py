"""Signed policy bundles: the one in force, its history, and pushing the next."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kairos.api.admin import Page, PolicyVersion
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.constants import BUNDLE_MAX

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


class BundleQuery(msgspec.Struct):
    """Which bundle."""

    version: Annotated[int, Meta(ge=1)]
    """The version of the policy."""


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.policies.current())


async def push(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.policies.push(call.decode(PolicyUpload), call.actor))


async def versions(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await tenant.policies.versions(view.before, view.fetch), lambda each: each.record.version)


async def bundle(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.policies.bundle(call.decode_query(BundleQuery).version))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/policy", Caller.NODE_OR_ADMIN, show, "The policy in force", answer=PolicyRecord),
    Route(
        "PUT",
        AT + "/policy",
        Caller.ADMIN,
        push,
        "Push a signed bundle",
        body=PolicyUpload,
        answer=PolicyRecord,
        body_max=2 * BUNDLE_MAX,
        serialized=True,
    ),
    Route(
        "GET",
        AT + "/policy/versions",
        Caller.VIEWER,
        versions,
        "All policies, newest first",
        query=Window,
        answer=Page[PolicyVersion],
    ),
    Route(
        "GET",
        AT + "/policy/bundle",
        Caller.NODE_OR_ADMIN,
        bundle,
        "The bundle of one version",
        query=BundleQuery,
        answer=bytes,
    ),
)
