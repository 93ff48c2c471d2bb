"""Which VNIs share the host's routing. Two of them with one prefix cannot: the host's answer in one would go into the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from kairos_dataplane.engine import Network
from kairos_node.netlink import VniPlan


class Sharing:
    """all_apart: none shares. Numbers decide who comes first, so that each start gives the same answer."""

    def __init__(self, all_apart: bool, known: Iterable[VniPlan]) -> None:
        """known: VNIs that are in place; they stay as they are."""
        self._all_apart = all_apart
        self._known = {plan.vni: plan.isolated for plan in known}
        self._taken: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for plan in known:
            if not plan.isolated:
                self._take(plan.routes)

    def placed(self, plans: Iterable[VniPlan]) -> Iterator[VniPlan]:
        """The same, each isolated that must be. Those that ask for it are so anyway."""
        for plan in sorted(plans, key=lambda each: each.vni):
            if (isolated := self._known.get(plan.vni)) is None:
                isolated = plan.isolated or self._all_apart or self._meets(plan.routes)
                if not isolated:
                    self._take(plan.routes)
            yield dataclasses.replace(plan, isolated=isolated)

    def _take(self, networks: Iterable[Network]) -> None:
        for network in networks:
            self._taken[network.version].append(_range(network))

    def _meets(self, networks: Iterable[Network]) -> bool:
        for network in networks:
            first, last = _range(network)
            if any(first <= end and begin <= last for begin, end in self._taken[network.version]):
                return True
        return False


def _range(network: Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)
