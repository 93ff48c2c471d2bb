"""Leases, which are the addresses that nodes have in VNIs now, and a record of all addresses that were ever given to
a node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kairos.api.admin import MemberRecord
from kairos.api.session import Lease

from ..ports import Database, Statement
from .bulk import bulks, columns
from .columns import strings
from .tables import Table

_LEASE = f"INSERT INTO leases (tenant, vni, node, prefix, address) SELECT ?, {columns(4)} FROM json_each(?)"
_GIVEN = f"INSERT INTO given_addresses (vni, node, prefix, address) SELECT {columns(4)} FROM json_each(?)"
_CURSOR = (
    f"INSERT INTO lease_cursors (vni, prefix, next) SELECT {columns(3)} FROM json_each(?) WHERE true"
    " ON CONFLICT DO UPDATE SET next = excluded.next"
)
_TABLES = ("leases", "lease_cursors", "given_addresses")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node has one address: a prefix of a VNI."""

    vni: int
    """The number of the VNI."""
    node: str
    """The member."""
    prefix: str
    """One prefix of the VNI, in canonical form."""


class LeaseStore:
    """The leases of one tenant. Each question about many nodes is one query, or one a megabyte of their names."""

    TABLES = (
        Table("leases", ("node", "vni", "address")),
        Table("lease_cursors", ("vni", "prefix"), by_vni=True),
        Table("given_addresses", ("vni", "address"), by_vni=True, by_age=True),
    )

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    # -- who is in a VNI ---------------------------------------------------------------------------------------------

    async def members(self, vnis: Iterable[int]) -> list[str]:
        """The nodes that are in one of these VNIs."""
        rows = await self._database.rows(
            "SELECT DISTINCT node FROM leases WHERE vni IN (SELECT value FROM json_each(?)) ORDER BY node",
            json.dumps(sorted(set(vnis))),
        )
        return [row["node"] for row in rows]

    async def page(self, vni: int, after: str, count: int) -> list[MemberRecord]:
        """The members of one VNI, by node."""
        rows = await self._database.rows(
            "SELECT d.node, d.role, d.name, json_group_array(l.address) AS addresses FROM leases l"
            " JOIN devices d ON d.tenant = l.tenant AND d.node = l.node"
            " WHERE l.vni = ? AND l.node > ? GROUP BY l.node ORDER BY l.node LIMIT ?",
            vni,
            after,
            count,
        )
        return [MemberRecord(row["node"], row["role"], row["name"], strings(row["addresses"])) for row in rows]

    async def addresses(self, vni: int, node: str) -> list[str]:
        """Interface addresses; empty: the node is no member."""
        rows = await self._database.rows(
            "SELECT address FROM leases WHERE vni = ? AND node = ? ORDER BY prefix", vni, node
        )
        return [row["address"] for row in rows]

    async def vnis_of(self, nodes: Iterable[str]) -> dict[str, list[int]]:
        """The numbers of the VNIs that each of these nodes is in; a node that is in none is not named."""
        found: dict[str, list[int]] = {}
        for bulk in bulks(nodes):
            rows = await self._database.rows(
                "SELECT DISTINCT l.node, l.vni FROM json_each(?) n CROSS JOIN leases l"
                " ON l.tenant = ? AND l.node = n.value ORDER BY l.node, l.vni",
                bulk,
                self._tenant,
            )
            for row in rows:
                found.setdefault(row["node"], []).append(row["vni"])
        return found

    async def endpoint_in(self, vni: int, prefixes: Iterable[str]) -> tuple[str, str] | None:
        """An endpoint that has an address in one of these prefixes, and the prefix."""
        row = await self._database.first(
            "SELECT node, prefix FROM leases WHERE vni = ? AND prefix IN (SELECT value FROM json_each(?))"
            " AND node NOT LIKE 'gw-%' ORDER BY prefix, node LIMIT 1",
            vni,
            json.dumps(list(prefixes)),
        )
        return None if row is None else (row["node"], row["prefix"])

    async def nodes_after(self, vnis: Iterable[int], node: str, count: int) -> list[str]:
        """The nodes above `node` that are in one of these VNIs, by node."""
        rows = await self._database.rows(
            "SELECT DISTINCT l.node FROM json_each(?) v CROSS JOIN leases l ON l.vni = v.value AND l.node > ?"
            " ORDER BY l.node LIMIT ?",
            json.dumps(sorted(set(vnis))),
            node,
            count,
        )
        return [row["node"] for row in rows]

    async def of_nodes(self, nodes: Iterable[str]) -> list[Lease]:
        """All that these nodes have, by node and VNI."""
        found: list[Lease] = []
        for bulk in bulks(nodes):
            rows = await self._database.rows(
                "SELECT vni, node, json_group_array(address) AS addresses FROM"
                " (SELECT l.* FROM json_each(?) n CROSS JOIN leases l ON l.tenant = ? AND l.node = n.value"
                " ORDER BY l.node, l.vni, l.prefix) GROUP BY node, vni ORDER BY node, vni",
                bulk,
                self._tenant,
            )
            found += [Lease(row["vni"], row["node"], strings(row["addresses"])) for row in rows]
        return found

    # -- what has been given -----------------------------------------------------------------------------------------

    async def held(self, vnis: Sequence[int], nodes: Sequence[str]) -> set[Place]:
        """The places in these VNIs where these nodes have an address."""
        return set(await self._addresses("leases", vnis, nodes))

    async def given(self, vnis: Sequence[int], nodes: Sequence[str]) -> dict[Place, str]:
        """What these nodes have or once had in these VNIs; the newest, where they had several."""
        return await self._addresses("given_addresses", vnis, nodes)

    async def owners(self, addresses: Iterable[tuple[int, str]]) -> dict[tuple[int, str], str]:
        """Whom these addresses, each of a VNI, were given to. Those that are free are not named."""
        found: dict[tuple[int, str], str] = {}
        for bulk in bulks(addresses):
            rows = await self._database.rows(
                "SELECT g.vni, g.address, g.node FROM json_each(?) a CROSS JOIN given_addresses g"
                " ON g.vni = json_extract(a.value, '$[0]') AND g.address = json_extract(a.value, '$[1]')",
                bulk,
            )
            found |= {(row["vni"], row["address"]): row["node"] for row in rows}
        return found

    async def cursors(self, vnis: Sequence[int]) -> dict[tuple[int, str], int]:
        """The next host number by VNI and prefix; a prefix that has given none yet is not named."""
        rows = await self._database.rows(
            "SELECT vni, prefix, next FROM lease_cursors WHERE vni IN (SELECT value FROM json_each(?))",
            json.dumps(list(vnis)),
        )
        return {(row["vni"], row["prefix"]): int(row["next"]) for row in rows}

    async def _addresses(self, table: str, vnis: Sequence[int], nodes: Sequence[str]) -> dict[Place, str]:
        found: dict[Place, str] = {}
        for bulk in bulks(nodes):
            rows = await self._database.rows(
                f"SELECT t.vni, t.node, t.prefix, t.address FROM json_each(?) v CROSS JOIN json_each(?) n"
                f" CROSS JOIN {table} t ON t.vni = v.value AND t.node = n.value ORDER BY t.rowid",
                json.dumps(list(vnis)),
                bulk,
            )
            found |= {Place(row["vni"], row["node"], row["prefix"]): row["address"] for row in rows}
        return found

    # -- writes ------------------------------------------------------------------------------------------------------

    def add(self, leases: Mapping[Place, str]) -> list[Statement]:
        """Adds leases. Breaks a constraint if an address or a place is taken."""
        return [(_LEASE, (self._tenant, bulk)) for bulk in bulks(_rows(leases))]

    @staticmethod
    def keep_given(addresses: Mapping[Place, str]) -> list[Statement]:
        """Records that addresses were given to nodes. Breaks a constraint if one was given to another node before."""
        return [(_GIVEN, (bulk,)) for bulk in bulks(_rows(addresses))]

    @staticmethod
    def set_cursors(cursors: Mapping[tuple[int, str], int]) -> list[Statement]:
        rows = ((vni, prefix, str(number)) for (vni, prefix), number in cursors.items())
        return [(_CURSOR, (bulk,)) for bulk in bulks(rows)]

    @staticmethod
    def remove(vni: int, node: str) -> Statement:
        """All that the node has in the VNI."""
        return "DELETE FROM leases WHERE vni = ? AND node = ?", (vni, node)

    @staticmethod
    def remove_at(place: Place) -> Statement:
        sql = "DELETE FROM leases WHERE vni = ? AND node = ? AND prefix = ?"
        return sql, (place.vni, place.node, place.prefix)

    @staticmethod
    def remove_prefixes(vni: int, prefixes: Iterable[str]) -> Statement:
        """Leases alone. What was given stays on record: the prefix may come back."""
        sql = "DELETE FROM leases WHERE vni = ? AND prefix IN (SELECT value FROM json_each(?))"
        return sql, (vni, json.dumps(list(prefixes)))

    def remove_node(self, node: str) -> Statement:
        """All that the node has in any VNI."""
        return "DELETE FROM leases WHERE tenant = ? AND node = ?", (self._tenant, node)

    @staticmethod
    def remove_vni(vni: int) -> list[Statement]:
        """With all that was given in it."""
        return [(f"DELETE FROM {table} WHERE vni = ?", (vni,)) for table in _TABLES]


def _rows(addresses: Mapping[Place, str]) -> Iterable[tuple[int, str, str, str]]:
    return ((place.vni, place.node, place.prefix, address) for place, address in addresses.items())
