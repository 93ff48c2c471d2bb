"""Networks behind endpoints: a subnet router offers them, the operator approves them, and only both together lead anywhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from kairos.api.admin import RouteApproval, RouteRecord
from kairos.api.session import Advertisement, Route

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Database, Row, Statement, TenantPlatform
from ..problems import problem
from ..store.records import device_of, routes_of, strings
from .interconnects import refuse_overlap
from .journal import Journal
from .pushes import Pushes

_OFFERS_MAX = 256  # prefixes of one node, over all its VNIs
_KEY = "printf('%08d %s %s', r.vni, r.prefix, r.node)"
_SHOWN = (
    f"SELECT r.*, {_KEY} AS key, v.name AS vni_name, d.name AS device_name FROM routes r JOIN vnis v ON v.vni = r.vni"
    " JOIN devices d ON d.tenant = r.tenant AND d.node = r.node WHERE r.tenant = ?"
)
_APPROVE = (
    "INSERT INTO routes (vni, tenant, node, prefix, advertised, approved) VALUES (?, ?, ?, ?, 0, 1)"
    " ON CONFLICT DO UPDATE SET approved = 1"
)
_OFFER = (
    "INSERT INTO routes (vni, tenant, node, prefix, advertised, approved) VALUES (?, ?, ?, ?, 1, 0)"
    " ON CONFLICT DO UPDATE SET advertised = 1"
)
_FORGET = "DELETE FROM routes WHERE tenant = ? AND advertised = 0 AND approved = 0"
Offer = tuple[int, str]  # VNI, prefix


class Routes:
    def __init__(self, platform: TenantPlatform, journal: Journal, pushes: Pushes) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes

    async def advertise(self, call: Call) -> Reply:
        """What this endpoint offers from now on, whole. Nothing leads there before the operator has approved it."""
        node, tenant = call.node.node, self._platform.tenant
        if call.node.role != "endpoint":
            raise problem("invalid", "only an endpoint advertises; a gateway's networks are routes of the VNI")
        wanted = await self._offers(call.decode(Advertisement), node)
        before = await self._held(node)
        offered = {offer for offer, row in before.items() if row["advertised"]}
        if wanted != offered:
            withdrawn = [_put("advertised", 0, offer, node) for offer in offered - wanted]
            added: list[Statement] = [(_OFFER, (vni, tenant, node, prefix)) for vni, prefix in wanted - offered]
            await self._platform.database.write([*withdrawn, *added, (_FORGET, (tenant,))])
            self._journal.record(
                "route.advertised", actor=node, subject=node, before=_listed(offered), after=_listed(wanted)
            )
            if any(before[offer]["approved"] for offer in offered ^ wanted if offer in before):
                await self._pushes.network_changed()
        return reply(None)

    async def listing(self, call: Call) -> Reply:
        view = window(call)
        rows = await self._platform.database.rows(
            f"{_SHOWN} AND {_KEY} > ? ORDER BY key LIMIT ?", self._platform.tenant, view.after, view.fetch
        )
        return view.page_of_rows(rows, "key", _record)

    async def decide(self, call: Call) -> Reply:
        """The operator's word on one prefix behind one endpoint; it may come before the endpoint offers it."""
        wanted = call.decode(RouteApproval)
        vni = await self._vni(call.parameters["name"])
        prefix = str(_network(wanted.prefix))
        before = await self._record(vni["vni"], prefix, wanted.node)
        if wanted.approved:
            await self._check(vni, prefix, wanted.node)
        elif before is None:
            raise problem("not-found", f"{wanted.node} has no route to {prefix} in {vni['name']}")
        tenant = self._platform.tenant
        statement: Statement = (
            (_APPROVE, (vni["vni"], tenant, wanted.node, prefix))
            if wanted.approved
            else _put("approved", 0, (vni["vni"], prefix), wanted.node)
        )
        await self._platform.database.write([statement, (_FORGET, (tenant,))])
        after = await self._record(vni["vni"], prefix, wanted.node)
        if after != before:
            self._journal.record(
                "route.approved" if wanted.approved else "route.withdrawn", actor=call.actor, subject=prefix,
                vni=vni["vni"], before=msgspec.to_builtins(before), after=msgspec.to_builtins(after),
            )  # fmt: skip
            await self._pushes.network_changed()
        return reply(after or RouteRecord(vni["name"], prefix, wanted.node, "", False, False))

    # -- what makes sense --------------------------------------------------------------------------------------------

    async def _offers(self, wanted: Advertisement, node: str) -> set[Offer]:
        rows = await self._platform.database.rows(
            "SELECT DISTINCT v.vni, v.name FROM leases l JOIN vnis v ON v.vni = l.vni WHERE l.tenant = ? AND l.node = ?",
            self._platform.tenant, node,
        )  # fmt: skip
        own = {row["name"]: row["vni"] for row in rows}
        offers = {(name, str(_network(text))) for name, prefixes in wanted.routes.items() for text in prefixes}
        if len(offers) > _OFFERS_MAX:
            raise problem("invalid", f"a node advertises at most {_OFFERS_MAX} prefixes")
        for name, _ in offers:
            if name not in own:
                raise problem("not-found", f"this node is in no VNI {name}; kairos member add {name} {node}")
        return {(own[name], prefix) for name, prefix in offers}

    async def _check(self, vni: Row, prefix: str, node: str) -> None:
        """Raises invalid or exists: a route must not take away what leads elsewhere."""
        network = ipaddress.ip_network(prefix)
        device = await device_of(self._platform.database, self._platform.tenant, node)
        if device is None or device["status"] != "active" or device["role"] != "endpoint":
            raise problem("not-found", f"there is no endpoint {node}")
        for text in strings(vni["prefixes"]):
            own = ipaddress.ip_network(text)
            if network.prefixlen and own.version == network.version and own.overlaps(network):
                raise problem("invalid", f"{prefix} overlaps {own}, the VNI's own")
        await refuse_overlap(self._platform.database, vni["vni"], vni["name"], (), [prefix])
        taken = [each.via for each in routes_of(vni) if each.prefix == prefix]
        rows = await self._platform.database.rows(
            "SELECT node FROM routes WHERE vni = ? AND prefix = ? AND approved = 1 AND node <> ?",
            vni["vni"],
            prefix,
            node,
        )
        for via in [*taken, *(row["node"] for row in rows)]:
            raise problem("exists", f"{prefix} is routed through {via}; withdraw that first")

    # -- what is read ------------------------------------------------------------------------------------------------

    async def _held(self, node: str) -> Mapping[Offer, Row]:
        rows = await self._platform.database.rows(
            "SELECT * FROM routes WHERE tenant = ? AND node = ?", self._platform.tenant, node
        )
        return {(row["vni"], row["prefix"]): row for row in rows}

    async def _record(self, vni: int, prefix: str, node: str) -> RouteRecord | None:
        row = await self._platform.database.first(
            f"{_SHOWN} AND r.vni = ? AND r.prefix = ? AND r.node = ?", self._platform.tenant, vni, prefix, node
        )
        return _record(row) if row is not None else None

    async def _vni(self, name: str) -> Row:
        row = await self._platform.database.first(
            "SELECT * FROM vnis WHERE tenant = ? AND (name = ? OR CAST(vni AS TEXT) = ?)",
            self._platform.tenant,
            name,
            name,
        )
        if row is None:
            raise problem("not-found", f"there is no VNI {name}")
        return row


async def in_force(store: Database, tenant: str) -> Mapping[int, list[Route]]:
    """What endpoints offer and the operator has approved, by VNI; a node that is no member any more offers nothing."""
    rows = await store.rows(
        "SELECT r.vni, r.prefix, r.node FROM routes r WHERE r.tenant = ? AND advertised = 1 AND approved = 1"
        " AND EXISTS (SELECT 1 FROM leases l WHERE l.vni = r.vni AND l.node = r.node) ORDER BY r.vni, r.prefix, r.node",
        tenant,
    )
    routes: dict[int, list[Route]] = {}
    for row in rows:
        routes.setdefault(row["vni"], []).append(Route(row["prefix"], row["node"]))
    return routes


def _put(column: str, value: int, offer: Offer, node: str) -> Statement:
    return (f"UPDATE routes SET {column} = ? WHERE vni = ? AND prefix = ? AND node = ?", (value, *offer, node))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise problem("invalid", f"not a network: {error}") from None
    if network.is_multicast or network.is_loopback or network.is_link_local:
        raise problem("invalid", f"{text} is not routed between networks")
    return network


def _listed(offers: set[Offer]) -> list[str]:
    return [f"{vni}:{prefix}" for vni, prefix in sorted(offers)]


def _record(row: Row) -> RouteRecord:
    return RouteRecord(
        row["vni_name"], row["prefix"], row["node"], row["device_name"], bool(row["advertised"]), bool(row["approved"])
    )
