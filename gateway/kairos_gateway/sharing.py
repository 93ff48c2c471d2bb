"""Which VNIs share the host's routing. Two of them with one prefix cannot: the host's answer in one would go into the other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator

from kairos_dataplane.engine import Network
from kairos_node.netlink import VniPlan

_log = logging.getLogger(__name__)


class Sharing:
    """all_apart: none shares. known: VNIs that are in place, which stay where they are and keep the routes they have."""

    def __init__(self, all_apart: bool, known: Iterable[VniPlan]) -> None:
        self._all_apart = all_apart
        self._known = {plan.vni: plan for plan in known}
        self._taken: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}  # first and last address, VNI

    def placed(self, plans: Iterable[VniPlan]) -> Iterator[VniPlan]:
        """The same: those isolated that must be, the others without a route that is another's. A plan may ask to be isolated.
        Who was there before comes first, then numbers decide, so that each start gives the same answer."""
        ordered = sorted(plans, key=lambda each: (each.vni not in self._known, each.vni))
        for plan in ordered:
            if (before := self._known.get(plan.vni)) and not before.isolated:
                self._take(plan.vni, set(before.routes) & set(plan.routes))
        for plan in ordered:
            if self._is_apart(plan):
                yield dataclasses.replace(plan, isolated=True)
            else:
                yield dataclasses.replace(plan, isolated=False, routes=self._shared(plan))

    def _is_apart(self, plan: VniPlan) -> bool:
        if before := self._known.get(plan.vni):
            return before.isolated
        return plan.isolated or self._all_apart or any(self._is_taken(plan.vni, route) for route in plan.routes)

    def _shared(self, plan: VniPlan) -> tuple[Network, ...]:
        """Its routes, now taken, but for those that another has: they can only have come later."""
        before = self._known.get(plan.vni)
        new = set(plan.routes) - set(before.routes if before else ())
        refused = {route for route in new if self._is_taken(plan.vni, route)}
        for route in refused:
            _log.warning("VNI %s: another VNI has %s on this host; a restart sets the two apart", plan.name, route)
        self._take(plan.vni, new - refused)
        return tuple(route for route in plan.routes if route not in refused)

    def _take(self, vni: int, networks: Iterable[Network]) -> None:
        for network in networks:
            self._taken[network.version].append((*_range(network), vni))

    def _is_taken(self, vni: int, network: Network) -> bool:
        """By another."""
        first, last = _range(network)
        return any(
            first <= end and begin <= last and owner != vni for begin, end, owner in self._taken[network.version]
        )


def _range(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)
