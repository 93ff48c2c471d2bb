"""Enrolled nodes: endpoints and gateways, active and revoked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from kairos.api.enrollment import Role
from kairos.api.session import Member

from ..ports import Database, Row
from .bulk import bulks
from .columns import strings, unb64

_MEMBER = "d.node, d.role, d.name, d.serial, d.key_fingerprint, d.tags, d.groups, d.owner"
_ACTIVE_GATEWAYS = "SELECT * FROM devices WHERE tenant = ? AND role = 'gateway' AND status = 'active'"


@dataclass(frozen=True, slots=True)
class StoredDevice:
    """One row of `devices`."""

    tenant: str
    node: str
    role: Role
    name: str
    status: Literal["active", "revoked"]
    public_key: bytes
    """Raw ML-DSA."""
    key_fingerprint: bytes
    """SHA-256 of the public key."""
    token_id: str
    """The join token that was counted for it."""
    tags: list[str]
    groups: list[str]
    owner: str
    serial: str
    """Of its present certificate, in hex."""
    not_after: int
    """The end of that certificate, Unix seconds."""
    enrolled_at: int
    reason: str
    """Why it was revoked."""

    @property
    def active(self) -> bool:
        return self.status == "active"

    def policy_subject(self) -> dict[str, Any]:
        """The device as policy sees it (policies/input.schema.json)."""
        return {
            "node": self.node,
            "name": self.name,
            "role": self.role,
            "tags": self.tags,
            "groups": self.groups,
            "owner": self.owner,
        }


class DeviceStore:
    """The devices of one tenant."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def one(self, node: str) -> StoredDevice | None:
        row = await self._database.first("SELECT * FROM devices WHERE tenant = ? AND node = ?", self._tenant, node)
        return None if row is None else _device(row)

    async def gateways(self) -> list[StoredDevice]:
        """Active ones, oldest first."""
        rows = await self._database.rows(f"{_ACTIVE_GATEWAYS} ORDER BY enrolled_at, node", self._tenant)
        return [_device(row) for row in rows]

    async def members(self, nodes: Iterable[str]) -> list[Member]:
        """Those of these devices that are active, as nodes see them."""
        found: list[Member] = []
        for bulk in bulks(nodes):
            rows = await self._database.rows(
                f"SELECT {_MEMBER} FROM json_each(?) n CROSS JOIN devices d ON d.tenant = ? AND d.node = n.value"
                " WHERE d.status = 'active' ORDER BY d.node",
                bulk,
                self._tenant,
            )
            found += [_member(row) for row in rows]
        return found

    async def nodes_after(self, node: str, count: int) -> list[str]:
        """Active devices above `node`, by node."""
        rows = await self._database.rows(
            "SELECT node FROM devices WHERE tenant = ? AND status = 'active' AND node > ? ORDER BY node LIMIT ?",
            self._tenant,
            node,
            count,
        )
        return [row["node"] for row in rows]

    async def revoked(self, *roles: Role) -> list[str]:
        """Revoked devices of these roles, by node."""
        rows = await self._database.rows(
            "SELECT d.node FROM json_each(?) r CROSS JOIN devices d ON d.tenant = ? AND d.role = r.value AND d.status = 'revoked'"
            " ORDER BY d.node",
            json.dumps(roles),
            self._tenant,
        )
        return [row["node"] for row in rows]


def _member(row: Row) -> Member:
    return Member(
        row["node"],
        row["role"],
        row["name"],
        row["serial"],
        bytes.fromhex(row["key_fingerprint"]),
        strings(row["tags"]),
        strings(row["groups"]),
        row["owner"],
    )


def _device(row: Row) -> StoredDevice:
    return StoredDevice(
        row["tenant"],
        row["node"],
        row["role"],
        row["name"],
        row["status"],
        unb64(row["public_key"]),
        bytes.fromhex(row["key_fingerprint"]),
        row["token_id"],
        strings(row["tags"]),
        strings(row["groups"]),
        row["owner"],
        row["serial"],
        row["not_after"],
        row["enrolled_at"],
        row["reason"],
    )
