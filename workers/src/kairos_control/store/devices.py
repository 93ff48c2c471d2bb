"""Enrolled nodes: endpoints and gateways, active and revoked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kairos.api.admin import Device
from kairos.api.enrollment import Role
from kairos.api.session import Member
from kairos.identity import transcript
from kairos.identity.spiffe import ROLES, node_id

from ..ports import Database, Row, Statement
from .bulk import bulks
from .columns import b64, strings, unb64
from .tables import Table

_MEMBER = "d.node, d.role, d.name, d.serial, d.key_fingerprint, d.tags, d.groups, d.owner"
_INSERT = (
    "INSERT INTO devices (tenant, node, role, name, status, public_key, key_fingerprint, token_id, tags, groups, owner,"
    " serial, not_after, enrolled_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_OF_KEY = (
    "SELECT * FROM devices WHERE tenant = ?1 AND (key_fingerprint = ?2 OR node IN (?3, ?4))"
    " ORDER BY key_fingerprint <> ?2 LIMIT 1"
)
_SHOWN = (
    "SELECT d.node, d.tenant, d.role, d.name, d.status, d.key_fingerprint, d.enrolled_at, d.serial, d.not_after, d.tags,"
    " d.groups, d.owner, d.reason, (SELECT json_group_array(json_array(vni, address)) FROM (SELECT l.vni, l.address"
    " FROM leases l WHERE l.tenant = d.tenant AND l.node = d.node ORDER BY l.vni, l.prefix)) AS leases FROM devices d"
    " WHERE d.tenant = ?"
)
_ACTIVE_GATEWAYS = "SELECT * FROM devices WHERE tenant = ? AND role = 'gateway' AND status = 'active'"


@dataclass(frozen=True, slots=True)
class StoredDevice:
    """One row of `devices`."""

    tenant: str
    """The tenant's name."""
    node: str
    """Its id."""
    role: Role
    """Endpoint or gateway."""
    name: str
    """The host name that it enrolled with."""
    status: Literal["active", "revoked"]
    """A revoked device stays on record."""
    public_key: bytes
    """Raw ML-DSA."""
    key_fingerprint: bytes
    """SHA-256 of the public key."""
    token_id: str
    """The join token that was counted for it."""
    tags: list[str]
    """From its join token."""
    groups: list[str]
    """From its join token."""
    owner: str
    """From its join token; empty: none."""
    serial: str
    """Of its present certificate, in hex."""
    not_after: int
    """The end of that certificate, Unix seconds."""
    enrolled_at: int
    """Unix seconds."""
    reason: str
    """Why it was revoked."""

    @property
    def active(self) -> bool:
        return self.status == "active"


class DeviceStore:
    """The devices of one tenant."""

    TABLES = (Table("devices", ("node",)),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def one(self, node: str) -> StoredDevice | None:
        row = await self._database.first("SELECT * FROM devices WHERE tenant = ? AND node = ?", self._tenant, node)
        return None if row is None else _device(row)

    async def of_key(self, public_key: bytes) -> StoredDevice | None:
        """The device that has this key or, if none has it now, the device that enrolled with it and has rotated its
        key since."""
        row = await self._database.first(
            _OF_KEY,
            self._tenant,
            transcript.fingerprint(public_key).hex(),
            *(node_id(role, public_key) for role in ROLES),
        )
        return None if row is None else _device(row)

    async def known(self, nodes: Iterable[str]) -> set[str]:
        """Those of `nodes` that are devices, revoked ones among them."""
        rows = await self._database.rows(
            "SELECT node FROM devices WHERE tenant = ? AND node IN (SELECT value FROM json_each(?))",
            self._tenant,
            json.dumps(list(nodes)),
        )
        return {row["node"] for row in rows}

    async def record(self, node: str) -> Device | None:
        """As the API shows it, without what only the tenant's object knows: whether it is online or isolated."""
        row = await self._database.first(f"{_SHOWN} AND d.node = ?", self._tenant, node)
        return None if row is None else _record(row)

    async def page(self, after: str, count: int) -> list[Device]:
        """Such records by node."""
        rows = await self._database.rows(f"{_SHOWN} AND d.node > ? ORDER BY d.node LIMIT ?", self._tenant, after, count)
        return [_record(row) for row in rows]

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

    async def active_endpoints(self) -> int:
        """How many there are."""
        row = await self._database.first(
            "SELECT count(*) AS endpoints FROM devices WHERE tenant = ? AND role = 'endpoint' AND status = 'active'",
            self._tenant,
        )
        return int(row["endpoints"]) if row else 0

    async def nodes(self) -> list[str]:
        """All devices, active and revoked, by node."""
        rows = await self._database.rows("SELECT node FROM devices WHERE tenant = ? ORDER BY node", self._tenant)
        return [row["node"] for row in rows]

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

    # -- writes ------------------------------------------------------------------------------------------------------

    def add(self, device: StoredDevice) -> Statement:
        """Breaks a constraint if a device has this id or key."""
        values = (
            self._tenant,
            device.node,
            device.role,
            device.name,
            device.status,
            b64(device.public_key),
            device.key_fingerprint.hex(),
            device.token_id,
            json.dumps(device.tags),
            json.dumps(device.groups),
            device.owner,
            device.serial,
            device.not_after,
            device.enrolled_at,
        )
        return _INSERT, values

    def certify(self, device: StoredDevice) -> Statement:
        """Updates its name, its token and its present certificate."""
        return (
            "UPDATE devices SET name = ?, token_id = ?, serial = ?, not_after = ? WHERE tenant = ? AND node = ?",
            (device.name, device.token_id, device.serial, device.not_after, self._tenant, device.node),
        )

    def rotate(self, device: StoredDevice) -> Statement:
        """Updates its key and its present certificate. Breaks a constraint if another device has the key."""
        return (
            "UPDATE devices SET public_key = ?, key_fingerprint = ?, serial = ?, not_after = ? WHERE tenant = ? AND node = ?",
            (
                b64(device.public_key),
                device.key_fingerprint.hex(),
                device.serial,
                device.not_after,
                self._tenant,
                device.node,
            ),
        )

    def revoke(self, node: str, reason: str) -> Statement:
        """It stays on record."""
        sql = "UPDATE devices SET status = 'revoked', reason = ? WHERE tenant = ? AND node = ?"
        return sql, (reason, self._tenant, node)


def _record(row: Row) -> Device:
    leases = json.loads(row["leases"])
    return Device(
        node=row["node"],
        tenant=row["tenant"],
        role=row["role"],
        name=row["name"],
        status=row["status"],
        key_fingerprint=bytes.fromhex(row["key_fingerprint"]),
        enrolled_at=row["enrolled_at"],
        serial=row["serial"],
        certificate_not_after=row["not_after"],
        addresses=[address for _, address in leases],
        vnis=sorted({vni for vni, _ in leases}),
        tags=strings(row["tags"]),
        groups=strings(row["groups"]),
        owner=row["owner"],
        reason=row["reason"],
    )


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
