"""What the demo's tenant allows: enough to show a grant, a deny that wins, and the default."""

from __future__ import annotations

from typing import Any

DEMO_GRANTS: dict[str, Any] = {
    "admission": [
        {"id": "gateways", "roles": ["gateway"], "outcome": "hold", "reason": "a gateway waits for the operator"},
        {"id": "staff", "roles": ["endpoint"], "tags": ["staff"], "outcome": "allow", "reason": "a staff join token"},
    ],
    "deny": [
        {
            "id": "no-metrics",
            "from": ["*"],
            "to": ["*"],
            "ports": ["tcp/9090"],
            "reason": "metrics are not for endpoints",
        },
    ],
    "allow": [
        {"id": "ping", "from": ["*"], "to": ["*"], "ports": ["icmp"]},
        {
            "id": "office",
            "from": ["tag:staff"],
            "to": ["192.168.50.0/24"],
            "ports": ["tcp/8080", "tcp/5201", "tcp/9090"],
        },
        {"id": "web", "from": ["tag:staff"], "to": ["tag:web"], "ports": ["tcp/8080"], "vnis": ["office"]},
    ],
}
