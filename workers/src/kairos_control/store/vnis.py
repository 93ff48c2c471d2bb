"""VNIs: what they are, and which devices are members of them by themselves."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from kairos.api.admin import VniRecord
from kairos.api.session import Route

from ..ports import Database, Row, Statement
from ..problems import problem
from .bulk import bulks
from .columns import strings
from .tables import Table

_INSERT = "INSERT INTO vnis (vni, tenant, name, prefixes, mtu, dns_suffix, routes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_UPDATE = "UPDATE vnis SET prefixes = ?, mtu = ?, dns_suffix = ?, routes = ? WHERE vni = ?"
_SELECTED_BY = {"tag": "tags", "group": "groups"}  # the column of devices that a kind of selector looks at


@dataclass(frozen=True, slots=True)
class StoredVni:
    """One row of `vnis`."""

    vni: int
    """Its number, 1 to 2**24 - 1."""
    name: str
    """A DNS label, unique in the tenant."""
    prefixes: list[str]
    """Networks in canonical form, at least one."""
    mtu: int
    """Bytes of an inner packet."""
    dns_suffix: str
    """Empty: the tenant's own."""
    routes: list[Route]
    """Networks behind gateways."""
    created_at: int
    """Unix seconds."""


class VniStore:
    """The VNIs of one tenant."""

    TABLES = (
        Table("vnis", ("name",)),
        Table("vni_selectors", ("vni", "selector"), by_vni=True),
    )

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def find(self, name: str) -> StoredVni | None:
        """By name, or else by number."""
        row = await self._database.first(
            "SELECT * FROM vnis WHERE tenant = ? AND name = ?"
            " UNION ALL SELECT * FROM vnis WHERE vni = ? AND tenant = ? LIMIT 1",
            self._tenant,
            name,
            _number(name),
            self._tenant,
        )
        return None if row is None else _vni(row)

    async def require(self, name: str) -> StoredVni:
        """By name, or else by number. Raises not-found."""
        vni = await self.find(name)
        if vni is None:
            raise problem("not-found", f"there is no VNI {name}")
        return vni

    async def all(self) -> list[StoredVni]:
        """By number."""
        rows = await self._database.rows("SELECT * FROM vnis WHERE tenant = ? ORDER BY vni", self._tenant)
        return [_vni(row) for row in rows]

    async def of_node(self, node: str) -> list[StoredVni]:
        """Those that the node is a member of, by number."""
        rows = await self._database.rows(
            "SELECT * FROM vnis WHERE vni IN (SELECT vni FROM leases WHERE tenant = ? AND node = ?) ORDER BY vni",
            self._tenant,
            node,
        )
        return [_vni(row) for row in rows]

    async def record(self, vni: StoredVni) -> VniRecord:
        """As the API shows it."""
        return (await self._records([vni]))[0]

    async def page(self, after: str, count: int) -> list[VniRecord]:
        """By name."""
        rows = await self._database.rows(
            "SELECT * FROM vnis WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?", self._tenant, after, count
        )
        return await self._records([_vni(row) for row in rows])

    async def selected(self, selectors: Iterable[str]) -> list[str]:
        """Active devices of the tenant that one of the selectors (`tag:x`, `group:x`) names."""
        nodes: list[str] = []
        values: dict[str, list[str]] = {}
        for selector in selectors:
            kind, _, value = selector.partition(":")
            values.setdefault(_SELECTED_BY[kind], []).append(value)
        for column, wanted in values.items():
            for bulk in bulks(wanted):
                rows = await self._database.rows(
                    f"SELECT DISTINCT d.node FROM devices d, json_each(d.{column}) each WHERE d.tenant = ?"
                    " AND d.status = 'active' AND each.value IN (SELECT value FROM json_each(?))",
                    self._tenant,
                    bulk,
                )
                nodes += [row["node"] for row in rows]
        return list(dict.fromkeys(nodes))

    async def after(self, number: int, count: int) -> list[StoredVni]:
        """Those above `number`, by number."""
        rows = await self._database.rows(
            "SELECT * FROM vnis WHERE tenant = ? AND vni > ? ORDER BY vni LIMIT ?", self._tenant, number, count
        )
        return [_vni(row) for row in rows]

    async def numbered(self, numbers: Iterable[int]) -> list[StoredVni]:
        """Those of these that there are, by number."""
        rows = await self._database.rows(
            "SELECT v.* FROM json_each(?) n CROSS JOIN vnis v ON v.vni = n.value WHERE v.tenant = ? ORDER BY v.vni",
            json.dumps(sorted(set(numbers))),
            self._tenant,
        )
        return [_vni(row) for row in rows]

    async def joined_by(self, names: Collection[str], selectors: Collection[str]) -> list[StoredVni]:
        """Those with one of these names, and those that name one of these selectors; by number."""
        rows = await self._database.rows(
            "SELECT * FROM vnis v WHERE tenant = ? AND (name IN (SELECT value FROM json_each(?)) OR EXISTS"
            " (SELECT 1 FROM vni_selectors s WHERE s.vni = v.vni AND s.selector IN (SELECT value FROM json_each(?))))"
            " ORDER BY vni",
            self._tenant,
            json.dumps(sorted(names)),
            json.dumps(sorted(selectors)),
        )
        return [_vni(row) for row in rows]

    async def next_number(self) -> int:
        """The first that is free, of those that this database has not counted yet."""
        row = await self._database.first(
            "SELECT next AS number FROM vni_numbers WHERE NOT EXISTS (SELECT 1 FROM vnis WHERE vni = next)"
            " UNION ALL SELECT min(v.vni) + 1 FROM vni_numbers, vnis v WHERE v.vni >= next"
            " AND NOT EXISTS (SELECT 1 FROM vnis w WHERE w.vni = v.vni + 1) LIMIT 1"
        )
        number: int = row["number"] if row else 1
        return number

    async def taken_in(self, other: Database) -> list[int]:
        """The numbers of the tenant's VNIs that VNIs of other tenants have in another database."""
        numbers = json.dumps([vni.vni for vni in await self.all()])
        rows = await other.rows(
            "SELECT vni FROM vnis WHERE vni IN (SELECT value FROM json_each(?)) AND tenant <> ? ORDER BY vni",
            numbers,
            self._tenant,
        )
        return [row["vni"] for row in rows]

    # -- writes ------------------------------------------------------------------------------------------------------

    def add(self, vni: StoredVni, selectors: Collection[str]) -> list[Statement]:
        """Breaks a constraint where the name or the number is taken."""
        values = (
            vni.vni,
            self._tenant,
            vni.name,
            json.dumps(vni.prefixes),
            vni.mtu,
            vni.dns_suffix,
            _routes(vni),
            vni.created_at,
        )
        return [(_INSERT, values), *self._select(vni.vni, selectors)]

    @staticmethod
    def count(number: int) -> Statement:
        """The number was the next one."""
        return "UPDATE vni_numbers SET next = ? + 1 WHERE next <= ?", (number, number)

    def put(self, vni: StoredVni, selectors: Collection[str]) -> list[Statement]:
        """All of the VNI anew, but its name and number."""
        values = (json.dumps(vni.prefixes), vni.mtu, vni.dns_suffix, _routes(vni), vni.vni)
        return [
            (_UPDATE, values),
            ("DELETE FROM vni_selectors WHERE vni = ?", (vni.vni,)),
            *self._select(vni.vni, selectors),
        ]

    @staticmethod
    def remove(vni: int) -> list[Statement]:
        return [(f"DELETE FROM {table} WHERE vni = ?", (vni,)) for table in ("vni_selectors", "vnis")]

    @staticmethod
    def _select(vni: int, selectors: Collection[str]) -> list[Statement]:
        sql = "INSERT INTO vni_selectors (vni, selector) SELECT ?, value FROM json_each(?)"
        return [(sql, (vni, bulk)) for bulk in bulks(sorted(set(selectors)))]

    async def _records(self, vnis: Sequence[StoredVni]) -> list[VniRecord]:
        numbers = json.dumps([vni.vni for vni in vnis])
        selectors: dict[int, list[str]] = {}
        for row in await self._database.rows(
            "SELECT vni, selector FROM vni_selectors WHERE vni IN (SELECT value FROM json_each(?)) ORDER BY selector",
            numbers,
        ):
            selectors.setdefault(row["vni"], []).append(row["selector"])
        members = {
            row["vni"]: row["members"]
            for row in await self._database.rows(
                "SELECT vni, count(DISTINCT node) AS members FROM leases"
                " WHERE vni IN (SELECT value FROM json_each(?)) GROUP BY vni",
                numbers,
            )
        }
        return [
            VniRecord(
                vni.vni,
                vni.name,
                self._tenant,
                vni.prefixes,
                vni.mtu,
                vni.dns_suffix,
                vni.routes,
                vni.created_at,
                members.get(vni.vni, 0),
                selectors.get(vni.vni, []),
            )
            for vni in vnis
        ]


def _number(name: str) -> int:
    """The number that a name may stand for; 0, which no VNI has, if it stands for none."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= 8 else 0


def _routes(vni: StoredVni) -> str:
    return json.dumps([msgspec.to_builtins(route) for route in vni.routes])


def _vni(row: Row) -> StoredVni:
    return StoredVni(
        row["vni"],
        row["name"],
        strings(row["prefixes"]),
        row["mtu"],
        row["dns_suffix"],
        [Route(each["prefix"], each["via"]) for each in json.loads(row["routes"])],
        row["created_at"],
    )
