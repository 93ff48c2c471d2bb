"""Join tokens. Only the hash of a token's secret is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from kairos.api.admin import TokenRecord

from ..ports import Database, Row, Statement
from .columns import b64, strings, unb64
from .tables import Table

_INSERT = (
    "INSERT INTO tokens (token_id, tenant, role, secret_hash, uses, used, expires_at, vnis, tags, groups, owner, label,"
    " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class StoredToken:
    """One join token."""

    record: TokenRecord
    """As the API shows it."""
    secret_hash: bytes
    """SHA-256 of its secret."""


class TokenStore:
    """The join tokens of one tenant."""

    TABLES = (Table("tokens", ("token_id",)),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def of_any_tenant(self, token_id: str) -> StoredToken | None:
        """For a caller that has not proven yet that it holds the token."""
        row = await self._database.first("SELECT * FROM tokens WHERE token_id = ?", token_id)
        return None if row is None else StoredToken(_record(row), unb64(row["secret_hash"]))

    async def one(self, token_id: str) -> TokenRecord | None:
        row = await self._database.first(
            "SELECT * FROM tokens WHERE tenant = ? AND token_id = ?", self._tenant, token_id
        )
        return None if row is None else _record(row)

    async def page(self, after: str, count: int) -> list[TokenRecord]:
        """By id."""
        rows = await self._database.rows(
            "SELECT * FROM tokens WHERE tenant = ? AND token_id > ? ORDER BY token_id LIMIT ?",
            self._tenant,
            after,
            count,
        )
        return [_record(row) for row in rows]

    async def unknown_vnis(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that no VNI of the tenant has."""
        rows = await self._database.rows(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT name FROM vnis WHERE tenant = ?) ORDER BY value",
            json.dumps(list(names)),
            self._tenant,
        )
        return [row["value"] for row in rows]

    # -- writes ------------------------------------------------------------------------------------------------------

    def add(self, record: TokenRecord, secret_hash: bytes, created_at: int) -> Statement:
        """The statement that adds a token."""
        values = (
            record.token_id,
            self._tenant,
            record.role,
            b64(secret_hash),
            record.uses,
            record.used,
            record.expires_at,
            json.dumps(record.vnis),
            json.dumps(record.tags),
            json.dumps(record.groups),
            record.owner,
            record.label,
            created_at,
        )
        return _INSERT, values

    def remove(self, token_id: str) -> Statement:
        """The statement that deletes a token; nodes that joined with it stay."""
        return "DELETE FROM tokens WHERE tenant = ? AND token_id = ?", (self._tenant, token_id)

    def use(self, token_id: str) -> Statement:
        """Counts one use. Breaks a constraint where the token has none left."""
        return "UPDATE tokens SET used = used + 1 WHERE tenant = ? AND token_id = ?", (self._tenant, token_id)

    @staticmethod
    def remove_ended(before: int, but: Iterable[str]) -> Statement:
        """Of all tenants, without those in `but`, what ended before this Unix time."""
        sql = "DELETE FROM tokens WHERE expires_at < ? AND tenant NOT IN (SELECT value FROM json_each(?))"
        return sql, (before, json.dumps(list(but)))


def _record(row: Row) -> TokenRecord:
    return TokenRecord(
        row["token_id"],
        row["tenant"],
        row["role"],
        row["uses"],
        row["used"],
        row["expires_at"],
        strings(row["vnis"]),
        strings(row["tags"]),
        strings(row["groups"]),
        row["owner"],
        row["label"],
    )
