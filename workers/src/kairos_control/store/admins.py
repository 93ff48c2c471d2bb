"""Scoped credentials of administrators. Only the hash of a secret is kept."""

from __future__ import annotations

from dataclasses import dataclass

from kairos.api.admin import AdminRecord

from ..ports import Database, Row, Statement
from .columns import b64, unb64


@dataclass(frozen=True, slots=True)
class StoredAdmin:
    """One credential."""

    record: AdminRecord
    """As the API shows it."""
    secret_hash: bytes
    """SHA-256 of its 32 secret bytes."""


class AdminStore:
    """Credentials of all tenants and, under the tenant '', those that are for every tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def one(self, admin: str) -> StoredAdmin | None:
        row = await self._database.first("SELECT * FROM admins WHERE admin = ?", admin)
        return None if row is None else StoredAdmin(_record(row), unb64(row["secret_hash"]))

    async def page(self, tenant: str, after: str, count: int) -> list[AdminRecord]:
        rows = await self._database.rows(
            "SELECT * FROM admins WHERE tenant = ? AND admin > ? ORDER BY admin LIMIT ?", tenant, after, count
        )
        return [_record(row) for row in rows]

    @staticmethod
    def adding(record: AdminRecord, secret_hash: bytes) -> Statement:
        """The statement that adds a credential."""
        return (
            "INSERT INTO admins (admin, tenant, name, role, secret_hash, created_at, created_by, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.admin,
                record.tenant,
                record.name,
                record.role,
                b64(secret_hash),
                record.created_at,
                record.created_by,
                record.expires_at,
            ),
        )

    @staticmethod
    def removing(admin: str) -> Statement:
        """The statement that deletes a credential."""
        return "DELETE FROM admins WHERE admin = ?", (admin,)

    @staticmethod
    def remove_ended(before: int) -> Statement:
        """The statement that deletes those that ended before this Unix time."""
        return "DELETE FROM admins WHERE expires_at < ?", (before,)

    @staticmethod
    def remove_all_of(tenant: str) -> Statement:
        """The statement that deletes those of one tenant."""
        return "DELETE FROM admins WHERE tenant = ?", (tenant,)


def _record(row: Row) -> AdminRecord:
    return AdminRecord(
        row["admin"], row["name"], row["role"], row["tenant"], row["created_at"], row["created_by"], row["expires_at"]
    )
