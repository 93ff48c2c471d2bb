"""Interconnects. A row is one direction: in VNI `vni`, the network `seen` stands for the network `prefix` of VNI
`other`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from kairos.api.admin import InterconnectRecord, PrefixName
from kairos.api.session import Crossing

from ..ports import Database, Row, Statement
from .tables import Table

_INSERT = "INSERT INTO interconnects (vni, seen, other, prefix, created_at) VALUES (?, ?, ?, ?, ?)"
_NAMED = (
    "SELECT i.*, h.name AS here, o.name AS there FROM interconnects i"
    " JOIN vnis h ON h.vni = i.vni JOIN vnis o ON o.vni = i.other WHERE h.tenant = ?"
)


@dataclass(frozen=True, slots=True)
class StoredName:
    """One row of `interconnects`."""

    vni: int
    """Where the name is used."""
    seen: str
    """The name, a network."""
    other: int
    """The VNI whose addresses have it."""
    prefix: str
    """Those addresses, a network of the same length."""


class InterconnectStore:
    """The interconnects of one tenant."""

    TABLES = (Table("interconnects", ("vni", "seen"), by_vni=True),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def seen_in(self, vni: int) -> list[str]:
        """The networks by which this VNI sees others."""
        rows = await self._database.rows("SELECT seen FROM interconnects WHERE vni = ? ORDER BY seen", vni)
        return [row["seen"] for row in rows]

    async def seen_elsewhere(self, vni: int) -> list[tuple[str, str]]:
        """What other VNIs see of this one: its prefix there, and the name of the other VNI."""
        rows = await self._database.rows(
            "SELECT i.prefix, v.name FROM interconnects i JOIN vnis v ON v.vni = i.vni WHERE i.other = ?"
            " ORDER BY i.prefix",
            vni,
        )
        return [(row["prefix"], row["name"]) for row in rows]

    async def one(self, a: int, b: int) -> InterconnectRecord | None:
        """The one between these two VNIs."""
        rows = await self._database.rows(
            f"{_NAMED} AND ((i.vni = ? AND i.other = ?) OR (i.vni = ? AND i.other = ?))", self._tenant, a, b, b, a
        )
        return _records(rows)[0] if rows else None

    async def all(self) -> list[InterconnectRecord]:
        """By the names of both VNIs."""
        return _records(await self._database.rows(_NAMED, self._tenant))

    async def crossings(self, vnis: Iterable[int]) -> dict[int, list[Crossing]]:
        """What each of these VNIs sees of others."""
        rows = await self._database.rows(
            "SELECT * FROM interconnects WHERE vni IN (SELECT value FROM json_each(?)) ORDER BY vni, seen",
            json.dumps(sorted(set(vnis))),
        )
        found: dict[int, list[Crossing]] = {}
        for row in rows:
            found.setdefault(row["vni"], []).append(Crossing(row["seen"], row["other"], row["prefix"]))
        return found

    # -- writes ------------------------------------------------------------------------------------------------------

    @staticmethod
    def add(names: Iterable[StoredName], now: int) -> list[Statement]:
        """now: Unix seconds."""
        return [(_INSERT, (name.vni, name.seen, name.other, name.prefix, now)) for name in names]

    @staticmethod
    def remove(a: int, b: int) -> list[Statement]:
        """Both ways between these two VNIs."""
        sql = "DELETE FROM interconnects WHERE vni = ? AND other = ?"
        return [(sql, (a, b)), (sql, (b, a))]


def key(record: InterconnectRecord) -> str:
    """The place of an interconnect in a listing."""
    return f"{record.a}.{record.b}"


def _records(rows: Iterable[Row]) -> list[InterconnectRecord]:
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        a, b = sorted((row["here"], row["there"]))
        pairs.setdefault((a, b), []).append(row)
    records = [
        InterconnectRecord(
            a,
            b,
            [
                PrefixName(row["there"], row["prefix"], row["seen"])
                for row in sorted(of, key=lambda row: (row["there"], row["prefix"]))
            ],
            of[0]["created_at"],
        )
        for (a, b), of in pairs.items()
    ]
    return sorted(records, key=key)
