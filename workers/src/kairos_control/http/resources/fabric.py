"""The fabric itself: what anyone may know of it, whether it answers, its metrics."""

from __future__ import annotations

from kairos import __version__
from kairos.api.enrollment import FabricInfo

from ...fabric import FabricServices
from ..call import Call, Reply, reply
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
    await fabric.store.tenants.exists("")
    return reply({"status": "ok"})


async def metrics(fabric: FabricServices, call: Call) -> Reply:
    """An administrator of one tenant sees that one."""
    own = call.administrator.tenant if call.administrator else ""
    return Reply(200, (await fabric.metrics.text(own)).encode(), _PROMETHEUS)


ROUTES: tuple[Route[FabricServices], ...] = (
    Route("GET", "/v1/fabric", Caller.ANYONE, info, "What anyone may know of this fabric", answer=FabricInfo),
    Route("GET", "/v1/health", Caller.ANYONE, health, "It answers, and its database does", answer=dict),
    Route("GET", "/v1/metrics", Caller.VIEWER, metrics, "For Prometheus: records, counted", answer=str),
)
