"""Certificates of nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..ports import Database
from .columns import unb64


class CertificateStore:
    """The certificates of one tenant's nodes."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def present(self, nodes: Sequence[str]) -> dict[str, bytes]:
        """The present certificate (DER) of each of these nodes that has one."""
        rows = await self._database.rows(
            "SELECT d.node, c.der FROM json_each(?) n JOIN devices d ON d.tenant = ? AND d.node = n.value"
            " JOIN certificates c ON c.serial = d.serial",
            json.dumps(list(nodes)),
            self._tenant,
        )
        return {row["node"]: unb64(row["der"]) for row in rows}
