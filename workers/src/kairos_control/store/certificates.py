"""Certificates of nodes that have not ended, and which of them are refused before their time.

Of a node's present certificate the octets are kept; of the ones before it only what a refusal needs, until they end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from kairos.api.admin import CertificateRecord
from kairos.identity import transcript
from kairos.identity.certificate import Certificate

from ..ports import Database, Row, Statement
from .columns import b64, unb64
from .tables import Table

# Writes nothing, and fails its batch, unless the node that the certificate names is there with its role, its key and
# its serial.
_INSERT = (
    "INSERT INTO certificates (serial, tenant, node, not_before, not_after) VALUES (?1, ?2, (SELECT node FROM devices"
    " WHERE tenant = ?2 AND node = ?3 AND role = ?4 AND key_fingerprint = ?5 AND serial = ?1 AND status = 'active'), ?6, ?7)"
)
_PRESENT = (
    "INSERT INTO present_certificates (tenant, node, der) VALUES (?, ?, ?)"
    " ON CONFLICT (tenant, node) DO UPDATE SET der = excluded.der"
)
_REFUSE = "UPDATE certificates SET refused_from = ?, reason = ? WHERE tenant = ? AND (refused_from IS NULL OR refused_from > ?)"


class CertificateStore:
    """The certificates of one tenant."""

    TABLES = (
        Table("certificates", ("node", "serial")),
        Table("present_certificates", ("node",)),
    )

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def one(self, serial: str, now: int) -> CertificateRecord | None:
        """None if it has ended."""
        row = await self._database.first(
            "SELECT * FROM certificates WHERE tenant = ? AND serial = ? AND not_after > ?", self._tenant, serial, now
        )
        return None if row is None else _record(row)

    async def page(self, node: str, now: int, after: str, count: int) -> list[CertificateRecord]:
        """Those that have not ended, by serial. node: of one node; empty: of all."""
        rows = await self._database.rows(
            "SELECT * FROM certificates WHERE tenant = ?1 AND serial > ?2 AND not_after > ?3 AND ?4 IN ('', node)"
            " ORDER BY serial LIMIT ?5",
            self._tenant,
            after,
            now,
            node,
            count,
        )
        return [_record(row) for row in rows]

    async def refused(self, now: int, node: str = "") -> list[CertificateRecord]:
        """Those that are refused, or soon will be, and have not ended. node: of one node; empty: of all."""
        rows = await self._database.rows(
            "SELECT * FROM certificates WHERE tenant = ?1 AND refused_from IS NOT NULL AND not_after > ?2"
            " AND ?3 IN ('', node) ORDER BY serial",
            self._tenant,
            now,
            node,
        )
        return [_record(row) for row in rows]

    async def present(self, nodes: Iterable[str]) -> dict[str, bytes]:
        """The present certificates of nodes, DER; a node without one is left out."""
        rows = await self._database.rows(
            "SELECT node, der FROM present_certificates WHERE tenant = ? AND node IN (SELECT value FROM json_each(?))",
            self._tenant,
            json.dumps(sorted(set(nodes))),
        )
        return {row["node"]: unb64(row["der"]) for row in rows}

    # -- writes ------------------------------------------------------------------------------------------------------

    def add(self, issued: Certificate) -> list[Statement]:
        """The present certificate of the node that it names, from now on. They come in a batch after the statement
        that gives the node this serial. Breaks a constraint unless that node is an active device with the
        certificate's role and key."""
        assert issued.spiffe is not None, "a node's certificate has a name"
        node = issued.spiffe.node
        values = (
            issued.serial,
            self._tenant,
            node,
            issued.spiffe.role,
            transcript.fingerprint(issued.public_key).hex(),
            issued.not_before,
            issued.not_after,
        )
        return [(_INSERT, values), (_PRESENT, (self._tenant, node, b64(issued.der)))]

    def refuse(self, serial: str, from_: int, reason: str) -> Statement:
        """From then on, or from earlier if that was said before."""
        return f"{_REFUSE} AND serial = ?", (from_, reason, self._tenant, from_, serial)

    def refuse_others(self, present: Certificate, from_: int, reason: str, now: int) -> Statement:
        """All of the node but its present one."""
        assert present.spiffe is not None, "a node's certificate has a name"
        sql = f"{_REFUSE} AND node = ? AND serial <> ? AND not_after > ?"
        return sql, (from_, reason, self._tenant, from_, present.spiffe.node, present.serial, now)

    @staticmethod
    def remove_ended(before: int, but: Iterable[str]) -> Statement:
        """Of all tenants, without those in `but`, what ended before this Unix time."""
        sql = "DELETE FROM certificates WHERE not_after < ? AND tenant NOT IN (SELECT value FROM json_each(?))"
        return sql, (before, json.dumps(list(but)))


def _record(row: Row) -> CertificateRecord:
    return CertificateRecord(
        row["serial"], row["node"], row["not_before"], row["not_after"], row["refused_from"] or 0, row["reason"]
    )
