"""The network as the asking node may see it, whole or as what changed."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kairos.api.session import NetworkUpdate

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import AT, Caller, Route

_ABSENT = -1


class NetworkQuery(msgspec.Struct):
    """From which revision on. Without `since` the whole network is one answer, as nodes expect it that know no
    updates."""

    since: int = _ABSENT
    """The revision that the node has; 0: none."""
    mark: Annotated[str, Meta(max_length=64)] = ""
    """The mark of that revision."""
    after: Annotated[str, Meta(max_length=80)] = ""
    """`next` of the page before, to get another page of the whole."""


async def show(tenant: TenantServices, call: Call) -> Reply:
    query = call.decode_query(NetworkQuery)
    if query.since == _ABSENT:
        return reply(await tenant.networks.seen_by(call.node))
    if query.after or not query.since:
        return reply(await tenant.networks.page(call.node, query.after))
    return reply(await tenant.networks.update(call.node, query.since, query.mark))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "GET",
        AT + "/network",
        Caller.NODE,
        show,
        "The network as this node may see it, or what changed since a revision",
        query=NetworkQuery,
        answer=NetworkUpdate,  # a Network reads as one
    ),
)
