"""What the fabric tells Prometheus: its records, counted (docs/operations.md lists the names)."""

from __future__ import annotations

from ..ports import Platform

# name, what it says, labels, and a query that takes a tenant, empty for all, and gives the labels and `value`
_GAUGES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (
        "kairos_fabric_devices", "Devices and gateways.", ("tenant", "role", "status"),
        "SELECT tenant, role, status, count(*) AS value FROM devices WHERE ?1 IN ('', tenant) GROUP BY tenant, role, status",
    ),
    (
        "kairos_fabric_vnis", "Network segments.", ("tenant",),
        "SELECT tenant, count(*) AS value FROM vnis WHERE ?1 IN ('', tenant) GROUP BY tenant",
    ),
    (
        "kairos_fabric_policy_version", "The policy that nodes are to enforce.", ("tenant",),
        "SELECT tenant, max(version) AS value FROM policies WHERE ?1 IN ('', tenant) GROUP BY tenant",
    ),
    (
        "kairos_fabric_audit_sealed_events", "Events of the log that are sealed in R2.", ("tenant",),
        "SELECT tenant, max(size) AS value FROM audit_segments WHERE ?1 IN ('', tenant) GROUP BY tenant",
    ),
    (
        "kairos_fabric_certificate_end_seconds", "When the first certificate of an active device ends, Unix time.", ("tenant",),
        "SELECT tenant, min(not_after) AS value FROM devices WHERE ?1 IN ('', tenant) AND status = 'active' GROUP BY tenant",
    ),
)  # fmt: skip


class Metrics:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def text(self, only: str = "") -> str:
        """In the text format of Prometheus. only: the one tenant that the caller may see; empty: all."""
        lines = []
        for name, text, labels, query in _GAUGES:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            for row in await self._platform.database.rows(query, only):
                named = ",".join(f'{label}="{row[label]}"' for label in labels)  # DNS labels and words of our own
                lines.append(f"{name}{{{named}}} {row['value']}")
        return "\n".join(lines) + "\n"
