"""Addresses: one of each prefix of a VNI for each member. One that was given goes to that node again, or to none."""

from __future__ import annotations

import ipaddress

from ..ports import Platform, Row, Statement
from ..problems import problem
from ..store.records import strings

_CURSOR = (
    "INSERT INTO lease_cursors (vni, prefix, next) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = excluded.next"
)
_LEASE = "INSERT INTO leases (vni, tenant, node, prefix, address) VALUES (?, ?, ?, ?, ?)"
_GIVEN = "INSERT INTO given_addresses (vni, prefix, address, node) VALUES (?, ?, ?, ?)"


class LeasePlan:
    """Leases in one VNI, for one batch: `statements` grow with each node. Two plans that race for an address break a key of the
    schema, not a promise. vni: needs `vni` and `prefixes`."""

    def __init__(self, platform: Platform, tenant: str, vni: Row) -> None:
        self.statements: list[Statement] = []
        self._platform = platform
        self._tenant = tenant
        self._vni = vni["vni"]
        self._prefixes = strings(vni["prefixes"])
        self._next: dict[str, int] = {}
        self._planned: set[tuple[str, str]] = set()

    async def give(self, node: str) -> None:
        """An address in every prefix that the node has none in. Raises addresses-exhausted."""
        held = {row["prefix"] for row in await self._of(node, "leases")} | {
            prefix for planned, prefix in self._planned if planned == node
        }
        before = {row["prefix"]: row["address"] for row in await self._of(node, "given_addresses")}
        for prefix in self._prefixes:
            if prefix in before and prefix not in held:
                self._lease(node, prefix, before[prefix])
            elif prefix not in held:
                self._give(node, prefix, await self._fresh(prefix))

    async def give_chosen(self, node: str, text: str) -> None:
        """This very address, in place of what the node has in its prefix. Raises invalid, and exists when it was given away."""
        prefix, address = self._place(text)
        if (node, prefix) in self._planned:
            raise problem("invalid", f"one address of {prefix} is enough")
        given = await self._platform.database.first(
            "SELECT node FROM given_addresses WHERE vni = ? AND address = ?", self._vni, address
        )
        if given is not None and given["node"] != node:
            raise problem("exists", f"{text} was given to {given['node']}, and no address is given twice")
        self.statements.append(
            ("DELETE FROM leases WHERE vni = ? AND node = ? AND prefix = ?", (self._vni, node, prefix))
        )
        (self._lease if given else self._give)(node, prefix, address)

    def _give(self, node: str, prefix: str, address: str) -> None:
        self._lease(node, prefix, address)
        self.statements.append((_GIVEN, (self._vni, prefix, address, node)))

    def _lease(self, node: str, prefix: str, address: str) -> None:
        self._planned.add((node, prefix))
        self.statements.append((_LEASE, (self._vni, self._tenant, node, prefix, address)))

    async def _fresh(self, prefix: str) -> str:
        network = ipaddress.ip_network(prefix)
        last = _last(network)
        number = self._next.get(prefix) or await self._cursor(prefix)
        while number <= last and await self._is_given(address := f"{network[number]}/{network.prefixlen}"):
            number += 1
        if number > last:
            raise problem("addresses-exhausted", f"{prefix} is full; give the VNI another prefix")
        self._next[prefix] = number + 1
        self.statements.append((_CURSOR, (self._vni, prefix, str(number + 1))))
        return address

    def _place(self, text: str) -> tuple[str, str]:
        """The prefix that an address falls in, and the address with its length."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise problem("invalid", f"{text} is no address") from None
        for prefix in self._prefixes:
            network = ipaddress.ip_network(prefix)
            if address in network and 1 <= int(address) - int(network.network_address) <= _last(network):
                return prefix, f"{address}/{network.prefixlen}"
        raise problem("invalid", f"{text} is no host's address in {', '.join(self._prefixes)}")

    async def _of(self, node: str, table: str) -> list[Row]:
        return await self._platform.database.rows(
            f"SELECT prefix, address FROM {table} WHERE vni = ? AND node = ? ORDER BY rowid", self._vni, node
        )

    async def _cursor(self, prefix: str) -> int:
        row = await self._platform.database.first(
            "SELECT next FROM lease_cursors WHERE vni = ? AND prefix = ?", self._vni, prefix
        )
        return int(row["next"]) if row else 1

    async def _is_given(self, address: str) -> bool:
        """The operator chose it for someone, ahead of us."""
        sql = "SELECT 1 FROM given_addresses WHERE vni = ? AND address = ?"
        return await self._platform.database.first(sql, self._vni, address) is not None


def _last(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> int:
    """The highest host number; number 0 names the network (or, in IPv6, its routers)."""
    return network.num_addresses - (2 if network.version == 4 and network.prefixlen < 31 else 1)
