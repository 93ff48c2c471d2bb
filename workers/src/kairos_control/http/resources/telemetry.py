"""How the nodes are doing."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from kairos.api.admin import Page
from kairos.api.telemetry import Sample, SampleRecord, TelemetryRecord

from ...problems import problem
from ...store.telemetry import place
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


class HistoryQuery(Window):
    """Which records of the past."""

    by: str = "hour"
    """`minute` or `hour`."""
    since: Annotated[int, Meta(ge=0)] = 0
    """Unix seconds."""
    node: Annotated[str, Meta(max_length=80)] = ""
    """Only this one; empty: all."""


async def take(tenant: TenantServices, call: Call) -> Reply:
    await tenant.telemetry.take(call.node.node, call.decode(Sample))
    return reply(None)


async def show(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(tenant.telemetry.newest(view.after, view.fetch), lambda each: each.node)


async def history(tenant: TenantServices, call: Call) -> Reply:
    view = call.decode_query(HistoryQuery)
    if view.by not in ("minute", "hour"):
        raise problem("invalid", "by: minute or hour")
    records = await tenant.telemetry.history(view.by, view.since, view.node, view.after, view.fetch)
    return view.page(records, place)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("POST", AT + "/telemetry", Caller.NODE, take, "How a node is doing", body=Sample, status=204),
    Route(
        "GET",
        AT + "/telemetry",
        Caller.VIEWER,
        show,
        "How the nodes are doing: the newest of each",
        query=Window,
        answer=Page[SampleRecord],
    ),
    Route(
        "GET",
        AT + "/telemetry/history",
        Caller.VIEWER,
        history,
        "How the nodes were doing, by minute for a day or by hour for a month",
        query=HistoryQuery,
        answer=Page[TelemetryRecord],
    ),
)
