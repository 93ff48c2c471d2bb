"""Networks behind endpoints. A subnet router advertises them and the operator approves them; a route is in force
with both."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from kairos.api.admin import RouteApproval, RouteRecord
from kairos.api.session import Advertisement

from ..problems import problem
from ..store import Stores
from ..store.devices import StoredDevice
from ..store.network_changes import change_of
from ..store.subnet_routes import Offer
from ..store.vnis import StoredVni
from .event_details import change_details
from .interconnects import Interconnects
from .journal import Journal
from .network_changes import NetworkChanges
from .prefixes import NetworkSet, route_prefix
from .rate_limits import ROUTES, Limits

OFFERS_MAX = 256
"""Prefixes that one node advertises, over all its VNIs."""


class SubnetRoutes:
    """The routes through endpoints of one tenant."""

    def __init__(
        self, store: Stores, journal: Journal, network: NetworkChanges, interconnects: Interconnects, limits: Limits
    ) -> None:
        self._store = store
        self._journal = journal
        self._network = network
        self._interconnects = interconnects
        self._limits = limits

    async def advertise(self, wanted: Advertisement, device: StoredDevice) -> None:
        """All that this endpoint offers from now on. No traffic goes there before the operator has approved it.
        Raises invalid, not-found, too-many-requests."""
        if device.role != "endpoint":
            raise problem("invalid", "only an endpoint advertises; a gateway's networks are routes of the VNI")
        node = device.node
        offers = await self._offers(wanted, node)
        before = await self._store.subnet_routes.of_node(node)
        offered = {offer for offer, record in before.items() if record.advertised}
        if offers == offered:
            return
        self._limits.take(ROUTES, node)
        in_force = {offer[0] for offer in offered ^ offers if offer in before and before[offer].approved}
        change = change_of(vnis=in_force)
        await self._journal.write(
            [
                *self._store.subnet_routes.offer(node, offers - offered, offered - offers),
                *(self._network.revision(change) if in_force else ()),
            ],
            "route.advertised",
            actor=node,
            subject=node,
            **change_details(_listed(offered), _listed(offers)),
        )
        if in_force:
            await self._network.announce(change)

    async def page(self, after: str, count: int) -> list[RouteRecord]:
        """By VNI, prefix and node."""
        return await self._store.subnet_routes.page(after, count)

    async def decide(self, name: str, wanted: RouteApproval, actor: str) -> RouteRecord:
        """Approves one prefix behind one endpoint or withdraws that; it may come before the endpoint advertises it.
        Raises invalid, not-found, exists."""
        vni, routes = await self._store.vnis.require(name), self._store.subnet_routes
        prefix = str(route_prefix(wanted.prefix))
        before = await routes.one(vni.vni, prefix, wanted.node)
        change = change_of(vnis=[vni.vni])
        if wanted.approved:
            await self._check(vni, prefix, wanted.node)
            statements = [routes.approve(vni.vni, prefix, wanted.node)]
        elif before is None:
            raise problem("not-found", f"{wanted.node} has no route to {prefix} in {vni.name}")
        else:
            statements = routes.disapprove(vni.vni, prefix, wanted.node)
        if before is None or before.approved != wanted.approved:
            await self._store.write([*statements, *self._network.revision(change)])
        after = await routes.one(vni.vni, prefix, wanted.node)
        if after != before:
            self._journal.record(
                "route.approved" if wanted.approved else "route.withdrawn",
                actor=actor,
                subject=prefix,
                vni=vni.vni,
                **change_details(before, after),
            )
            await self._network.announce(change)
        return after or RouteRecord(vni.name, prefix, wanted.node, "", False, False)

    async def _offers(self, wanted: Advertisement, node: str) -> set[Offer]:
        if sum(map(len, wanted.routes.values())) > OFFERS_MAX:
            raise problem("invalid", f"a node advertises at most {OFFERS_MAX} prefixes")
        own = {vni.name: vni.vni for vni in await self._store.vnis.of_node(node)}
        for name in wanted.routes:
            if name not in own:
                raise problem("not-found", f"this node is in no VNI {name}; kairos member add {name} {node}")
        return {(own[name], str(route_prefix(text))) for name, prefixes in wanted.routes.items() for text in prefixes}

    async def _check(self, vni: StoredVni, prefix: str, node: str) -> None:
        """Raises invalid, not-found or exists if the route would divert traffic that another route or prefix
        carries."""
        network = ip_network(prefix)
        device = await self._store.devices.one(node)
        if device is None or not device.active or device.role != "endpoint":
            raise problem("not-found", f"there is no endpoint {node}")
        own = NetworkSet(map(ip_network, vni.prefixes)).overlapping(network)
        if network.prefixlen and own is not None:
            raise problem("invalid", f"{prefix} overlaps {own}, the VNI's own")
        await self._interconnects.refuse_overlap(vni, routes=[network])
        through = await self._store.subnet_routes.approved_through(vni.vni, prefix)
        for via in [*(route.via for route in vni.routes if route.prefix == prefix), *through]:
            if via != node:
                raise problem("exists", f"{prefix} is routed through {via}; withdraw that first")


def _listed(offers: Iterable[Offer]) -> list[str]:
    return [f"{vni}:{prefix}" for vni, prefix in sorted(offers)]
