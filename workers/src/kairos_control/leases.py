"""Addresses: one of each prefix of a VNI for each member, and none ever given twice."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from .ports import Platform, Row, Statement
from .problems import problem
from .records import strings


async def lease_statements(platform: Platform, tenant: str, node: str, vnis: Sequence[Row]) -> list[Statement]:
    """What gives `node` an address in every prefix of `vnis` that it has none in. Raises addresses-exhausted.

    The cursor moves from exactly the value that was read: two nodes that race for a number break the lease's key, not a promise.
    """
    statements: list[Statement] = []
    for vni in vnis:
        held = await platform.store.rows("SELECT prefix FROM leases WHERE vni = ? AND node = ?", vni["vni"], node)
        for prefix in strings(vni["prefixes"]):
            if prefix not in {row["prefix"] for row in held}:
                statements += await _lease(platform, tenant, node, vni["vni"], prefix)
    return statements


async def _lease(platform: Platform, tenant: str, node: str, vni: int, prefix: str) -> list[Statement]:
    network = ipaddress.ip_network(prefix)
    cursor = await platform.store.first("SELECT next FROM lease_cursors WHERE vni = ? AND prefix = ?", vni, prefix)
    number = int(cursor["next"]) if cursor else 1
    last = network.num_addresses - (2 if network.version == 4 and network.prefixlen < 31 else 1)
    if number > last:
        raise problem("addresses-exhausted", f"{prefix} is full; give the VNI another prefix")
    address = f"{network[number]}/{network.prefixlen}"
    return [
        (
            "INSERT INTO lease_cursors (vni, prefix, next) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = excluded.next",
            (vni, prefix, str(number + 1)),
        ),
        (
            "INSERT INTO leases (vni, tenant, node, prefix, address) VALUES (?, ?, ?, ?, ?)",
            (vni, tenant, node, prefix, address),
        ),
    ]
