"""Rows of the durable records, as the API shows them. Binary columns are base64, lists JSON (see migrations/)."""

from __future__ import annotations

import base64
import json

from kairos.api.admin import VniRecord
from kairos.api.session import Crossing, Route, Vni

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
