"""A VNI as the host's kernel sees it: a TUN, its addresses, its routes in a table of ours and the rules that lead there.

The interface and its routes die with the TUN's descriptor, so a killed daemon leaves only rules. They carry our protocol
number, by which the next start finds and removes them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kairos.errors import Refused
from kairos_node.namespace import Namespace, clear_left_behind, make_tun, name_of
from kairos_node.user_namespace import ThreadNamespace

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

_GSO_MAX = 62_000  # a super-packet and all that sealing adds must fit one UDP_SEGMENT send
_EXIT_PRIORITY = 5201
_RULE_PRIORITY = 5200  # before the main table, so that a VNI's prefix wins over a default route
_NO_PREFIX_ROUTE, _NO_DAD = 0x200, 0x002
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Realm:
    """What keeps the traces of an agent and a gateway on one host apart. protocol: marks rules and routes as ours. one_table: its VNIs
    have nothing in common, so one rule leads to the routes of all: rules are tried one after the other, for every packet."""

    prefix: str
    protocol: int
    table_base: int
    one_table: bool

    def interface(self, vni: int) -> str:
        return f"{self.prefix}{vni}"

    def table(self, vni: int) -> int:
        return self.table_base + (0 if self.one_table else vni)


AGENT = Realm("kairos", 75, 1_000_000_000, one_table=False)
GATEWAY = Realm("kairosg", 76, 1_100_000_000, one_table=True)


@dataclass(frozen=True, slots=True)
class VniPlan:
    """How a VNI should look on this host. routes: what lies behind the TUN; mtu: of inner packets, in bytes; isolated: it lives
    in a network namespace of its own, for all of its life; apart: the VNI that has a prefix of it on this host, which therefore has
    no part in this one: what its kernel answered would go to the other."""

    vni: int
    name: str
    mtu: int
    addresses: tuple[Interface, ...]
    routes: tuple[Network, ...]
    isolated: bool = False
    apart: str = ""


@dataclass(slots=True)
class _Link:
    plan: VniPlan
    fd: int
    index: int
    netlink: AsyncIPRoute
    namespace: Namespace | None
    rules: set[tuple[str, Network]] = field(default_factory=set)


class Interfaces:
    """The TUNs of one daemon. Made by `open_interfaces`, which removes everything at the end."""

    def __init__(
        self,
        netlink: AsyncIPRoute,
        realm: Realm,
        node: str,
        make_namespace: Callable[[str], Awaitable[Namespace]] = Namespace.make,
    ) -> None:
        """node: names our namespaces, so that two daemons on one machine leave each other's alone."""
        self._netlink = netlink
        self._make_namespace = make_namespace
        self._node = node
        self._realm = realm
        self._links: dict[int, _Link] = {}
        self._led_in: set[tuple[str, int]] = set()

    async def apply(self, plan: VniPlan) -> int:
        """Makes the VNI look like its plan; returns the TUN's descriptor, which stays ours. Raises Refused."""
        link = self._links.get(plan.vni)
        try:
            if link is None:
                link = await self._add(plan)
            await self._configure(link, plan)
        except (NetlinkError, OSError) as error:
            raise Refused("interface-failed", f"{self._realm.interface(plan.vni)}: {_said(error)}") from None
        return link.fd

    async def remove(self, vni: int) -> None:
        link = self._links.pop(vni, None)
        if link is not None:
            for rule in link.rules:
                await self._rule("del", link, rule)
            await asyncio.to_thread(os.close, link.fd)  # the last close of a TUN takes the kernel some 20 ms
            if link.namespace is not None:
                self._led_in = {each for each in self._led_in if each[0] != link.namespace.name}
                await link.namespace.remove(self._realm.prefix)

    async def remove_all(self) -> None:
        for vni in list(self._links):
            await self.remove(vni)

    async def clear(self) -> None:
        """Removes every VNI, and the namespaces and rules that a killed daemon left."""
        await self.remove_all()
        await clear_left_behind(self._node, self._realm.prefix)
        for family in _FAMILIES:
            ours = [rule async for rule in await self._netlink.get_rules(family=family)]
            for rule in ours:
                if rule.get("protocol") == self._realm.protocol:
                    await self._netlink.rule(
                        "del",
                        family=family,
                        priority=rule.get("priority"),
                        table=rule.get("table"),
                        protocol=self._realm.protocol,
                    )

    def name(self, vni: int) -> str:
        return self._realm.interface(vni)

    async def _add(self, plan: VniPlan) -> _Link:
        name = self._realm.interface(plan.vni)
        namespace = await self._make_namespace(name_of(self._node, plan.vni)) if plan.isolated else None
        fd, index = await namespace.make_tun(name) if namespace else make_tun(name)
        empty = VniPlan(plan.vni, plan.name, 0, (), (), plan.isolated)
        netlink = namespace.netlink if namespace else self._netlink
        link = self._links[plan.vni] = _Link(empty, fd, index, netlink, namespace)
        return link

    def namespace(self, vni: int) -> Namespace:
        """Of a VNI that is isolated."""
        namespace = self._links[vni].namespace
        assert namespace is not None
        return namespace

    @property
    def host(self) -> AsyncIPRoute:
        """Netlink outside of all our namespaces."""
        return self._netlink

    async def _configure(self, link: _Link, plan: VniPlan) -> None:
        if link.plan.mtu != plan.mtu:
            await link.netlink.link("set", index=link.index, mtu=plan.mtu, gso_max_size=_GSO_MAX, state="up")
        for route in set(link.plan.routes) - set(plan.routes):
            await self._route("del", link, route, plan)
        gone = set(link.plan.addresses) - set(plan.addresses)
        for address in gone:  # it takes the routes along that prefer it as source: they are set again below
            await self._address("del", link, address)
        for address in plan.addresses:
            if address not in link.plan.addresses:
                await self._address("add", link, address)
        if (link.plan.addresses, link.plan.routes) != (plan.addresses, plan.routes):
            for route in plan.routes:
                await self._route("replace", link, route, plan)
        await self._set_rules(link, plan)
        link.plan = plan

    async def _set_rules(self, link: _Link, plan: VniPlan) -> None:
        if self._realm.one_table:
            await self._lead_in(link, {_family(route) for route in plan.routes})
            return
        wanted = {("dst", route) for route in plan.routes} | {("src", ip_network(a.ip)) for a in plan.addresses}
        for rule in link.rules - wanted:
            await self._rule("del", link, rule)
            link.rules.discard(rule)
        for rule in wanted - link.rules:
            await self._rule("add", link, rule)
            link.rules.add(rule)

    async def _lead_in(self, link: _Link, families: set[int]) -> None:
        """The rule for all VNIs of this namespace, once for each family."""
        place = link.namespace.name if link.namespace else ""
        for family in families:
            if (place, family) not in self._led_in:
                await link.netlink.rule(
                    "add",
                    family=family,
                    priority=_RULE_PRIORITY,
                    table=self._realm.table(link.plan.vni),
                    protocol=self._realm.protocol,
                )
                self._led_in.add((place, family))

    async def _address(self, verb: str, link: _Link, address: Interface) -> None:
        """No prefix route: the VNI's own table holds its routes, the main table none of them."""
        flags = _NO_PREFIX_ROUTE | (_NO_DAD if address.version == 6 else 0)
        await link.netlink.addr(
            verb, index=link.index, address=str(address.ip), prefixlen=address.network.prefixlen, flags=flags
        )

    async def _route(self, verb: str, link: _Link, route: Network, plan: VniPlan) -> None:
        source = next((str(a.ip) for a in plan.addresses if a.version == route.version), None)
        await link.netlink.route(
            verb,
            family=_family(route),
            dst=str(route),
            oif=link.index,
            table=self._realm.table(plan.vni),
            proto=self._realm.protocol,
            **({"prefsrc": source} if source and verb != "del" else {}),
        )

    async def _rule(self, verb: str, link: _Link, rule: tuple[str, Network]) -> None:
        selector, network = rule
        everything = not network.prefixlen  # an exit: written without its selector, and found by its priority
        await link.netlink.rule(
            verb,
            family=_family(network),
            priority=_EXIT_PRIORITY if everything else _RULE_PRIORITY,
            table=self._realm.table(link.plan.vni),
            protocol=self._realm.protocol,
            **({} if everything else {selector: str(network)}),
        )


@asynccontextmanager
async def open_interfaces(realm: Realm, node: str) -> AsyncIterator[Interfaces]:
    """A clean start and a clean end, whatever happens in between."""
    async with AsyncIPRoute() as netlink:
        interfaces = Interfaces(netlink, realm, node)
        await interfaces.clear()
        try:
            yield interfaces
        finally:
            await interfaces.clear()


@asynccontextmanager
async def open_rootless_interfaces(realm: Realm, node: str) -> AsyncIterator[Interfaces]:
    """For a process that may change nothing on its host, and so leaves nothing there: all its VNIs are isolated."""
    async with AsyncIPRoute() as netlink:
        interfaces = Interfaces(netlink, realm, node, ThreadNamespace.make)
        try:
            yield interfaces
        finally:
            await interfaces.remove_all()


async def host_addresses(skip: str) -> list[str]:
    """Global unicast addresses of this host, IPv4 first, apart from interfaces whose name begins with `skip`."""
    found: list[tuple[int, str]] = []
    async with AsyncIPRoute() as netlink:
        async for message in await netlink.get_addr():
            name = socket.if_indextoname(message["index"])
            address = message.get("local") or message.get("address")
            if message["scope"] == 0 and not name.startswith(skip) and address:
                found.append((message["family"], address))
    return [address for _, address in sorted(found)]


def _family(network: Network) -> int:
    return socket.AF_INET if network.version == 4 else socket.AF_INET6


def _said(error: NetlinkError | OSError) -> str:
    if error.args and error.args[0] == 1:
        return "not permitted; run as root, or with CAP_NET_ADMIN"
    if error.args and error.args[0] == 16:
        return "the interface is in use; is another daemon running?"
    return str(error.args[1]) if len(error.args) > 1 else str(error)
