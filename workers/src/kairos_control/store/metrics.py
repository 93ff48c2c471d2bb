"""The fabric's records, counted for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..ports import Database


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric that is a query."""

    name: str
    """The name of the metric."""
    text: str
    """What it says, for a person."""
    labels: tuple[str, ...]
    """The names of its labels."""
    query: str
    """SQL that takes a tenant, empty for all, and gives the labels and `value`."""
    in_directory: bool = False
    """It asks for records of the directory and not for those of tenants."""


GAUGES = (
    Gauge(
        "kairos_fabric_devices", "Devices and gateways.", ("tenant", "role", "status"),
        "SELECT tenant, role, status, count(*) AS value FROM devices WHERE ?1 IN ('', tenant) GROUP BY tenant, role, status",
    ),
    Gauge(
        "kairos_fabric_vnis", "Network segments.", ("tenant",),
        "SELECT tenant, count(*) AS value FROM vnis WHERE ?1 IN ('', tenant) GROUP BY tenant",
    ),
    Gauge(
        "kairos_fabric_policy_version", "The policy that nodes are to enforce.", ("tenant",),
        "SELECT tenant, max(version) AS value FROM policies WHERE ?1 IN ('', tenant) GROUP BY tenant",
    ),
    Gauge(
        "kairos_fabric_audit_sealed_events", "Events of the log that are sealed in R2 and indexed.", ("tenant",),
        "SELECT tenant, value FROM (SELECT tenant, (SELECT size FROM audit_segments s WHERE s.tenant = t.tenant"
        " ORDER BY first DESC LIMIT 1) AS value FROM tenants t WHERE ?1 IN ('', tenant)) WHERE value IS NOT NULL",
    ),
    Gauge(
        "kairos_fabric_audit_waiting_events", "Events that the last sweep could not bring to R2 and the index.", ("tenant",),
        "SELECT tenant, waiting AS value FROM audit_states WHERE ?1 IN ('', tenant)", in_directory=True,
    ),
    Gauge(
        "kairos_fabric_refused_calls", "Calls that were refused and that the audit records or counts.", ("tenant",),
        "SELECT tenant, refused AS value FROM audit_states WHERE ?1 IN ('', tenant)", in_directory=True,
    ),
    Gauge(
        "kairos_fabric_certificate_end_seconds", "When the first certificate of an active device ends, Unix time.", ("tenant",),
        "SELECT tenant, min(not_after) AS value FROM devices WHERE ?1 IN ('', tenant) AND status = 'active' GROUP BY tenant",
    ),
)  # fmt: skip


class MetricsStore:
    """The figures behind the fabric's metrics."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def values(self, gauge: Gauge, only: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value. only: the one tenant to count; empty: all."""
        rows = await self._database.rows(gauge.query, only)
        return (({label: str(row[label]) for label in gauge.labels}, row["value"]) for row in rows)

    async def set_audit_state(self, tenant: str, waiting: int, refused: int) -> None:
        """Writes only what differs."""
        await self._database.write(
            [
                (
                    "INSERT INTO audit_states (tenant, waiting, refused) VALUES (?1, ?2, ?3) ON CONFLICT (tenant) DO UPDATE"
                    " SET waiting = ?2, refused = ?3 WHERE waiting <> ?2 OR refused <> ?3",
                    (tenant, waiting, refused),
                )
            ]
        )
