"""The tables that a tenant's records are in: each store names its own. Deleting a tenant and moving it to another database follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ..ports import Database, Row, Statement
from .bulk import bulks, columns


@dataclass(frozen=True, slots=True)
class Table:
    """One table with records of tenants."""

    name: str
    key: tuple[str, ...]
    """Columns that together tell one record of a tenant from its others. Pages are in their order, so an index begins with them."""
    by_vni: bool = False
    """A record names a VNI of the tenant, in `vni`, and not the tenant."""
    outlives: bool = False
    """Records stay when the tenant is deleted, as its log does."""
    by_age: bool = False
    """The order in which the records of a VNI were added matters; `key` begins with `vni`."""

    async def page(self, database: Database, tenant: str, after: Row | None, count: int) -> list[Row]:
        """Records behind the record `after`; None: from the first on."""
        condition, values = self._behind(after)
        order = "vni, rowid" if self.by_age else ", ".join(self.key)
        return await database.rows(
            f"SELECT * FROM {self.name} WHERE {self._of_tenant}{condition} ORDER BY {order} LIMIT ?",
            tenant, *values, count,
        )  # fmt: skip

    async def last(self, database: Database, tenant: str) -> Row | None:
        """The last record in the order of pages."""
        names = ("vni", "rowid") if self.by_age else self.key
        order = ", ".join(f"{name} DESC" for name in names)
        return await database.first(
            f"SELECT * FROM {self.name} WHERE {self._of_tenant} ORDER BY {order} LIMIT 1", tenant
        )

    async def any(self, database: Database, tenant: str) -> bool:
        return await database.first(f"SELECT 1 FROM {self.name} WHERE {self._of_tenant} LIMIT 1", tenant) is not None

    def add(self, records: Sequence[Row]) -> list[Statement]:
        """Breaks a constraint where one of these records is there."""
        names = list(records[0])
        sql = f"INSERT INTO {self.name} ({', '.join(names)}) SELECT {columns(len(names))} FROM json_each(?)"
        return [(sql, (bulk,)) for bulk in bulks([record[name] for name in names] for record in records)]

    def remove(self, tenant: str) -> Statement:
        """All records of the tenant."""
        return f"DELETE FROM {self.name} WHERE {self._of_tenant}", (tenant,)

    def remove_some(self, tenant: str, count: int) -> Statement:
        key = ", ".join(self.key)
        sql = (
            f"DELETE FROM {self.name} WHERE {self._of_tenant} AND ({key}) IN"
            f" (SELECT {key} FROM {self.name} WHERE {self._of_tenant} LIMIT ?)"
        )
        return sql, (tenant, tenant, count)

    @property
    def _of_tenant(self) -> str:
        return "vni IN (SELECT vni FROM vnis WHERE tenant = ?)" if self.by_vni else "tenant = ?"

    def _behind(self, record: Row | None) -> tuple[str, tuple[Any, ...]]:
        if record is None:
            return "", ()
        key = tuple(record[name] for name in self.key)
        marks = ", ".join("?" * len(key))
        if not self.by_age:
            return f" AND ({', '.join(self.key)}) > ({marks})", key
        age = f"(SELECT rowid FROM {self.name} WHERE ({', '.join(self.key)}) = ({marks}))"
        return f" AND (vni, rowid) > (?, {age})", (record["vni"], *key)


def same(some: Sequence[Row], others: Sequence[Row]) -> bool:
    """Whether these are the same records in the same order."""
    return [msgspec.json.encode(dict(each)) for each in some] == [msgspec.json.encode(dict(each)) for each in others]
