"""Rows of the durable records, as the API shows them. Binary columns are base64, lists JSON (see migrations/)."""

from __future__ import annotations

import base64
import json

from kairos.api.admin import Device, TokenRecord

from ..ports import Database, LocalDatabase, Row
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
