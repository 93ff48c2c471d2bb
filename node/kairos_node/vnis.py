"""A node's VNIs: kernel and data plane kept in step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_network

from kairos_dataplane import Dataplane
from kairos_dataplane.engine import LOCAL, Mapping, Network
from kairos_node.namespace import Namespace
from kairos_node.netlink import Interfaces, VniPlan

_log = logging.getLogger(__name__)


class Vnis:
    """Each VNI with its TUN in the kernel and its FIB in the data plane. A next hop is a data plane session, or LOCAL."""

    def __init__(self, dataplane: Dataplane, interfaces: Interfaces) -> None:
        self._dataplane = dataplane
        self._interfaces = interfaces
        self._plans: dict[int, VniPlan] = {}
        self._hops: dict[int, dict[Network, int]] = {}
        self._prefixes: dict[tuple[int, int], set[Network]] = {}  # by VNI and hop: `_hops` the other way round
        self._mappings: dict[int, set[Mapping]] = {}

    @property
    def plans(self) -> Collection[VniPlan]:
        return self._plans.values()

    def interface(self, vni: int) -> str:
        return self._interfaces.name(vni)

    def namespace(self, vni: int) -> Namespace:
        """Of a VNI that is isolated."""
        return self._interfaces.namespace(vni)

    def place(self, vni: int) -> Namespace | None:
        """The namespace that it is in; None: where the daemon is."""
        plan = self._plans.get(vni)
        return self.namespace(vni) if plan is not None and plan.isolated else None

    async def apply(self, plan: VniPlan, local: Collection[Network] = ()) -> None:
        """local: what this host takes in beside its own addresses. Raises Refused."""
        known = self._plans.get(plan.vni)
        if plan.apart and (known is None or known.apart != plan.apart):
            _log.warning(
                "VNI %s has a prefix of %s: this host has no part in it until it has a namespace", plan.name, plan.apart
            )
        fd = await self._interfaces.apply(replace(plan, addresses=(), routes=()) if plan.apart else plan)
        if plan.vni not in self._plans:
            self._dataplane.add_vni(plan.vni, fd)
            self._hops[plan.vni] = {}
        self._plans[plan.vni] = plan
        for address in plan.addresses:
            self._dataplane.set_router(plan.vni, address.ip)
        self.take_in(plan, local)

    def take_in(self, plan: VniPlan, local: Collection[Network]) -> None:
        """What goes into this VNI's TUN: packets to our own addresses and to what lies behind us."""
        ours = {ip_network(address.ip) for address in plan.addresses} | set(local)
        self.lead(plan.vni, LOCAL, set() if plan.apart else ours)

    async def remove(self, vni: int) -> None:
        if self._plans.pop(vni, None) is not None:
            for hop in set(self._hops.pop(vni).values()):
                del self._prefixes[vni, hop]
            self._mappings.pop(vni, None)
            self._dataplane.remove_vni(vni)
            await self._interfaces.remove(vni)

    def lead(self, vni: int, hop: int, prefixes: Collection[Network]) -> None:
        """Exactly these prefixes lead to `hop`; one that led elsewhere moves."""
        for prefix in self._prefixes.get((vni, hop), set()) - set(prefixes):
            self._remove_route(vni, prefix)
        for prefix in prefixes:
            self._add_route(vni, prefix, hop)

    def _add_route(self, vni: int, prefix: Network, hop: int) -> None:
        known = self._hops[vni].get(prefix)
        if known == hop:
            return
        self._dataplane.add_route(vni, prefix, hop)
        if known is not None:
            self._forget(vni, prefix, known)
        self._hops[vni][prefix] = hop
        self._prefixes.setdefault((vni, hop), set()).add(prefix)

    def _remove_route(self, vni: int, prefix: Network) -> None:
        self._dataplane.remove_route(vni, prefix)
        self._forget(vni, prefix, self._hops[vni].pop(prefix))

    def _forget(self, vni: int, prefix: Network, hop: int) -> None:
        led = self._prefixes[vni, hop]
        led.discard(prefix)
        if not led:
            del self._prefixes[vni, hop]

    def part(self, vni: int, mappings: Collection[Mapping] = ()) -> None:
        """The VNI sees nothing of others any more but these."""
        for mapping in self._mappings.get(vni, set()) - set(mappings):
            self._dataplane.remove_mapping(vni, mapping)
            self._mappings[vni].discard(mapping)

    def join(self, vni: int, mappings: Collection[Mapping]) -> None:
        """The VNI sees these of others too. Whatever had their prefixes before must be parted first."""
        known = self._mappings.setdefault(vni, set())
        for mapping in set(mappings) - known:
            self._dataplane.add_mapping(vni, mapping)
            known.add(mapping)

    def steer(self, vni: int, hops: dict[Network, int]) -> None:
        """All that leads to sessions, and where: what moves from one to another is at no moment without a route."""
        known = self._hops[vni]
        for prefix, hop in hops.items():
            if known.get(prefix) != LOCAL:
                self._add_route(vni, prefix, hop)
        for prefix in [each for each, hop in known.items() if hop != LOCAL and each not in hops]:
            self._remove_route(vni, prefix)

    def cut(self, session: int) -> None:
        """Wipes the session's keys and removes its flows and routes; nothing happens to one that is gone."""
        with contextlib.suppress(OSError):  # it went with its VNI
            self._dataplane.cut_session(session)
        for vni, hops in self._hops.items():
            for prefix in self._prefixes.pop((vni, session), set()):
                del hops[prefix]


def set_apart(plans: Collection[VniPlan], placed: Collection[VniPlan]) -> list[VniPlan]:
    """The plans for one host, where an address can mean one VNI only: of two that share the host's routing and a prefix, the one
    that is placed already, or has the lower number."""
    before = {plan.vni for plan in placed if not plan.apart}
    sharing: list[VniPlan] = []
    found = []
    for plan in sorted(plans, key=lambda plan: (plan.vni not in before, plan.vni)):
        other = next((each.name for each in sharing if _meet(plan, each)), "") if not plan.isolated else ""
        if not plan.isolated and not other:
            sharing.append(plan)
        found.append(replace(plan, apart=other))
    return found


def _meet(plan: VniPlan, other: VniPlan) -> bool:
    pairs = ((one.network, two.network) for one in plan.addresses for two in other.addresses)
    return any(one.version == two.version and one.overlaps(two) for one, two in pairs)
