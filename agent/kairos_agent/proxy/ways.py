"""From what a program asks for to an address in a VNI. Nothing is asked of a resolver of the host, so nothing leaks to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kairos.errors import Refused
from kairos_agent.proxy.negotiation import Address, Target
from kairos_node.netlink import VniPlan
from kairos_node.network_view import NetworkView
from kairos_node.zone import lies_under, zone_of


@dataclass(frozen=True, slots=True)
class Way:
    """addresses: of the host, to be tried in this order."""

    plan: VniPlan
    addresses: tuple[Address, ...]

    def source(self, address: Address) -> Address | None:
        """Our own address that speaks to this one."""
        return next((own.ip for own in self.plan.addresses if own.version == address.version), None)


def find_way(target: Target, plans: Collection[VniPlan], view: NetworkView) -> Way:
    """plans: of the VNIs that may be used. An address that several of them lead to is nobody's: two networks may have it.
    Raises Refused, with what to do about it."""
    if target.vni:
        plans = [plan for plan in plans if target.vni in (plan.name, str(plan.vni))]
    ways = [Way(plan, found) for plan in plans if (found := _addresses(target, plan, view))]
    if not ways:
        raise Refused("no-way", f"{target}: no VNI of this proxy has that name or leads to that address")
    if len(ways) > 1:
        names = [way.plan.name for way in ways]
        raise Refused(
            "two-ways",
            f"{target} is in {' and in '.join(names)}; name one as user (socks5h://{names[0]}@...) or give --vni",
        )
    return ways[0]


def _addresses(target: Target, plan: VniPlan, view: NetworkView) -> tuple[Address, ...]:
    host = target.host
    if not isinstance(host, str):
        return (host,) if any(host in route for route in plan.routes) else ()
    zone = zone_of(view, plan.vni)
    if zone.suffix and lies_under(host, zone.suffix):
        host = host.removesuffix(zone.suffix).removesuffix(".")
    elif "." in host or not target.vni:
        return ()
    return tuple(address for address in zone.addresses(host) if any(address in route for route in plan.routes))
