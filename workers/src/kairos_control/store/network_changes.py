"""The keys that the newest revisions of a tenant's network changed. The present values are in the tables of VNIs,
leases and devices."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..ports import Database, Statement
from .tables import Table

KEPT = 1024
"""Revisions of a tenant that are kept. A node that was away for longer fetches the whole network."""
BYTES_MAX = 512 * 1024
"""Of changes that are read for one answer. A node that missed more fetches the whole network."""
KEYS_MAX = 1000
"""Leases that one change names. One that touches more names their VNIs as remade."""
_ADD = "INSERT INTO network_changes (tenant, revision, mark, changed) SELECT tenant, revision, ?, ? FROM tenants WHERE tenant = ?"
_FORGET = (
    "DELETE FROM network_changes WHERE tenant = ? AND revision <= (SELECT revision FROM tenants WHERE tenant = ?) - ?"
)


class NetworkChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """The keys of what changed. A key may be named although nothing changed; what changed must be named."""

    vnis: tuple[int, ...] = ()
    """VNIs whose record is another or gone: prefixes, routes of all kinds, names of other VNIs."""
    remade: tuple[int, ...] = ()
    """VNIs with so many changed leases that a node that sees them fetches the whole network."""
    leases: tuple[tuple[int, str], ...] = ()
    """VNI and node."""
    members: tuple[str, ...] = ()
    """Nodes whose record is another, or that are new, or not active any more."""
    revoked: tuple[str, ...] = ()
    """Nodes that were revoked; they are named in `members` as well."""
    gateways: bool = False
    """The list of gateways or their ranks."""

    @property
    def size(self) -> int:
        """How many keys it has."""
        return len(self.vnis) + len(self.remade) + len(self.leases) + len(self.members) + len(self.revoked)

    @property
    def touched(self) -> set[int]:
        """The VNIs in which something changed."""
        return {*self.vnis, *self.remade, *(vni for vni, _ in self.leases)}


def change_of(
    *,
    vnis: Iterable[int] = (),
    leases: Iterable[tuple[int, str]] = (),
    members: Iterable[str] = (),
    revoked: Iterable[str] = (),
    gateways: bool = False,
) -> NetworkChange:
    """A change of bounded size."""
    named = tuple(sorted(set(leases)))
    remade = tuple(sorted({vni for vni, _ in named})) if len(named) > KEYS_MAX else ()
    return NetworkChange(
        tuple(sorted(set(vnis))),
        remade,
        () if remade else named,
        tuple(sorted({*members, *revoked})),
        tuple(sorted(set(revoked))),
        gateways,
    )


def union(changes: Iterable[NetworkChange]) -> NetworkChange:
    """All that these changed together."""
    every = list(changes)
    return NetworkChange(
        tuple(sorted({vni for each in every for vni in each.vnis})),
        tuple(sorted({vni for each in every for vni in each.remade})),
        tuple(sorted({lease for each in every for lease in each.leases})),
        tuple(sorted({node for each in every for node in each.members})),
        tuple(sorted({node for each in every for node in each.revoked})),
        any(each.gateways for each in every),
    )


class NetworkChangeStore:
    """The history of one tenant's network."""

    TABLES = (Table("network_changes", ("revision",)),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def newest(self) -> tuple[int, str]:
        """The revision and its mark, which is empty where the history does not have it. (0, "") for a tenant that
        does not exist."""
        row = await self._database.first(
            "SELECT t.revision, coalesce(c.mark, '') AS mark FROM tenants t LEFT JOIN network_changes c"
            " ON c.tenant = t.tenant AND c.revision = t.revision WHERE t.tenant = ?",
            self._tenant,
        )
        return (row["revision"], row["mark"]) if row else (0, "")

    async def between(self, revision: int, mark: str, newest: int) -> NetworkChange | None:
        """What changed after `revision` up to `newest`; None where the history does not have all of it, `revision` had another
        mark, or it is more than BYTES_MAX."""
        rows = await self._database.rows(
            "SELECT revision, mark, CASE WHEN sum(length(changed)) OVER () <= ? THEN changed END AS changed"
            " FROM network_changes WHERE tenant = ? AND revision BETWEEN ? AND ? ORDER BY revision LIMIT ?",
            BYTES_MAX,
            self._tenant,
            revision,
            newest,
            KEPT,
        )
        if not mark or len(rows) != newest - revision + 1 or rows[0]["mark"] != mark or rows[0]["changed"] is None:
            return None
        return union(msgspec.json.decode(row["changed"], type=NetworkChange) for row in rows[1:])

    def add(self, change: NetworkChange, mark: str) -> list[Statement]:
        """The next revision, under a random mark. It belongs into the batch that makes the change."""
        changed = msgspec.json.encode(change).decode()
        return [
            ("UPDATE tenants SET revision = revision + 1 WHERE tenant = ?", (self._tenant,)),
            (_ADD, (mark, changed, self._tenant)),
            (_FORGET, (self._tenant, self._tenant, KEPT)),
        ]
