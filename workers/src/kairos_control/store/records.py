"""Rows of the durable records, as the API shows them. Binary columns are base64, lists JSON (see migrations/)."""

from __future__ import annotations

import base64
import json
from typing import Any

from kairos.api.admin import Device, Tenant, TokenRecord, VniRecord
from kairos.api.session import Crossing, Route, Vni

from ..ports import Database, LocalDatabase, Row, Statement
from ..problems import problem


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text)


def strings(text: str) -> list[str]:
    """A JSON list column."""
    value: list[str] = json.loads(text)
    return value


def isolation_reason(local: LocalDatabase, node: str) -> str | None:
    """Why it is isolated; None when it is not."""
    rows = local.rows("SELECT reason FROM isolations WHERE node = ? AND state = 'isolated'", node)
    return str(rows[0]["reason"]) if rows else None


def refuse_isolated(local: LocalDatabase, node: str) -> None:
    """Raises isolated: this node gets nothing until it is released."""
    reason = isolation_reason(local, node)
    if reason is not None:
        raise problem("isolated", reason or "ask your operator")


async def device_of(store: Database, tenant: str, node: str) -> Row | None:
    return await store.first("SELECT * FROM devices WHERE tenant = ? AND node = ?", tenant, node)


async def gateways_of(store: Database, tenant: str) -> list[Row]:
    """Active gateways, oldest first."""
    return await store.rows(
        "SELECT * FROM devices WHERE tenant = ? AND role = 'gateway' AND status = 'active' ORDER BY enrolled_at, node",
        tenant,
    )


def tenant_record(row: Row) -> Tenant:
    return Tenant(row["tenant"], row["created_at"])


def vni_record(row: Row, members: int = 0) -> VniRecord:
    return VniRecord(
        row["vni"], row["name"], row["tenant"], strings(row["prefixes"]), row["mtu"], row["dns_suffix"], routes_of(row),
        row["created_at"], members,
    )  # fmt: skip


def vni_view(row: Row, behind_endpoints: list[Route], crossings: list[Row]) -> Vni:
    """crossings: of the whole tenant."""
    return Vni(
        row["vni"], row["name"], strings(row["prefixes"]), row["mtu"], row["dns_suffix"], routes_of(row) + behind_endpoints,
        [Crossing(each["seen"], each["other"], each["prefix"]) for each in crossings if each["vni"] == row["vni"]],
    )  # fmt: skip


def routes_of(row: Row) -> list[Route]:
    return [Route(each["prefix"], each["via"]) for each in json.loads(row["routes"])]


def token_record(row: Row) -> TokenRecord:
    return TokenRecord(
        row["token_id"], row["tenant"], row["role"], row["uses"], row["used"], row["expires_at"], strings(row["vnis"]),
        strings(row["tags"]), strings(row["groups"]), row["owner"], row["label"],
    )  # fmt: skip


def device_record(row: Row, leases: list[Row], online: bool) -> Device:
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
        addresses=[lease["address"] for lease in leases],
        vnis=sorted({lease["vni"] for lease in leases}),
        tags=strings(row["tags"]),
        groups=strings(row["groups"]),
        owner=row["owner"],
        online=online,
        reason=row["reason"],
    )


def policy_subject(row: Row) -> dict[str, Any]:
    """What policy sees of a device."""
    return {
        "node": row["node"],
        "name": row["name"],
        "role": row["role"],
        "tags": strings(row["tags"]),
        "groups": strings(row["groups"]),
        "owner": row["owner"],
    }


class OtherRecords:
    """The records of a tenant that have no store of their own yet."""

    def __init__(self, database: Database, local: LocalDatabase, tenant: str) -> None:
        self._database, self._local, self._tenant = database, local, tenant

    async def nodes(self) -> list[str]:
        rows = await self._database.rows("SELECT node FROM devices WHERE tenant = ?", self._tenant)
        return [row["node"] for row in rows]

    def remove_all(self) -> list[Statement]:
        of_vnis = "WHERE vni IN (SELECT vni FROM vnis WHERE tenant = ?)"
        in_vnis = ("interconnects", "leases", "lease_cursors", "given_addresses", "vni_selectors", "routes")
        tables = ("certificates", "gateway_ranks", "devices", "tokens", "vnis")
        return [(f"DELETE FROM {table} {of_vnis}", (self._tenant,)) for table in in_vnis] + [
            (f"DELETE FROM {table} WHERE tenant = ?", (self._tenant,)) for table in tables
        ]

    def clear(self) -> None:
        for table in ("enrollments", "sessions", "postures"):
            self._local.write(f"DELETE FROM {table}")

    def delete_old_enrollments(self, before: int) -> None:
        self._local.write("DELETE FROM enrollments WHERE status <> 'held' AND created_at < ?", before)


def remove_ended_records(before: int) -> list[Statement]:
    """The statements that delete certificates and join tokens that ended before this Unix time."""
    return [
        ("DELETE FROM certificates WHERE not_after < ?", (before,)),
        ("DELETE FROM tokens WHERE expires_at < ?", (before,)),
    ]
