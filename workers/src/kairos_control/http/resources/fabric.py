"""The fabric itself: what anyone may know of it, whether it answers, its metrics."""

from __future__ import annotations

from kairos import __version__
from kairos.api.admin import Page
from kairos.api.enrollment import FabricInfo
from kairos.api.operations import DeadLetter, FabricEventRecord, Health

from ...fabric import FabricServices
from ...store import database_schema, object_schema
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import Caller, Route

_PROMETHEUS = "text/plain; version=0.0.4"


async def info(fabric: FabricServices, call: Call) -> Reply:
    settings = fabric.platform.settings
    return reply(
        FabricInfo(
            __version__,
            settings.suite.name,
            settings.trust_domain,
            settings.relay_url,
            settings.root.der,
            settings.issuer.certificate.der,
            settings.policy_key,
        )
    )


async def health(fabric: FabricServices, call: Call) -> Reply:
    """Reads one row, so that a fabric without its database is not healthy."""
    database = await database_schema.last_applied(fabric.platform.databases.directory)
    return reply(Health("ok", database, object_schema.MIGRATIONS[-1].number))


async def metrics(fabric: FabricServices, call: Call) -> Reply:
    """An administrator of one tenant sees that one."""
    own = call.administrator.tenant if call.administrator else ""
    return Reply(200, (await fabric.metrics.text(own)).encode(), _PROMETHEUS)


async def dead_letters(fabric: FabricServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await fabric.dead_letters.page(view.before, view.fetch), lambda each: each.seq)


async def events(fabric: FabricServices, call: Call) -> Reply:
    view = window(call)
    found = await fabric.store.fabric_events.page(view.before, view.fetch)
    records = [FabricEventRecord(each.seq, each.event, each.count) for each in found]
    return view.page(records, lambda each: each.seq)


ROUTES: tuple[Route[FabricServices], ...] = (
    Route("GET", "/v1/fabric", Caller.ANYONE, info, "What anyone may know of this fabric", answer=FabricInfo),
    Route("GET", "/v1/health", Caller.ANYONE, health, "It answers, and its database does", answer=Health),
    Route("GET", "/v1/metrics", Caller.VIEWER, metrics, "For Prometheus: records, counted", answer=str),
    Route(
        "GET",
        "/v1/audit",
        Caller.ROOT,
        events,
        "What the fabric recorded that is not of a single tenant, newest first",
        query=Window,
        answer=Page[FabricEventRecord],
    ),
    Route(
        "GET",
        "/v1/dead-letters",
        Caller.ROOT,
        dead_letters,
        "Queue messages that could not be handled, newest first",
        query=Window,
        answer=Page[DeadLetter],
    ),
)
