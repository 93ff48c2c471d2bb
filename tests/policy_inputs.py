"""What the conformance suite asks: a policy that uses every kind of rule, and random inputs that meet each."""

from __future__ import annotations

import random
from typing import Any

from kairos.policy.input import week_minute

POINTS = ("egress", "ingress", "interconnect", "session", "admission")
GRANTS = {
    "admission": [
        {"id": "gateways", "roles": ["gateway"], "outcome": "hold"},
        {"id": "staff", "roles": ["endpoint"], "tags": ["staff"], "outcome": "allow"},
        {"id": "guests", "roles": ["endpoint"], "tags": ["guest"], "outcome": "deny"},
    ],
    "session": [
        {"id": "sound", "tags": ["staff"], "outcome": "allow", "require": {"disk_encrypted": True}},
        {"id": "lost", "tags": ["guest"], "outcome": "deny"},
        {"id": "servers", "tags": ["db"], "outcome": "allow"},
    ],
    "deny": [
        {"id": "no-ssh", "from": ["*"], "to": ["tag:web"], "ports": ["tcp/22"], "reason": "use the bastion"},
        {"id": "no-curl", "from": ["*"], "to": ["tag:db"], "ports": ["*"], "apps": ["/usr/bin/curl"]},
        {
            "id": "no-nights",
            "from": ["tag:db"],
            "to": ["*"],
            "ports": ["*"],
            "when": [{"from": "22:00", "to": "06:00"}],
        },
        {"id": "no-lab", "from": ["tag:guest"], "to": ["10.8.0.0/16"], "ports": ["*"], "vnis": ["lab"]},
    ],
    "allow": [
        {"id": "web", "from": ["tag:staff", "group:dev"], "to": ["tag:web"], "ports": ["tcp/80", "tcp/8000-8100"]},
        {"id": "all-ssh", "from": ["owner:ann"], "to": ["10.0.0.0/8", "fd07::/64"], "ports": ["tcp/*", "udp/53"]},
        {"id": "unit", "from": ["tag:db"], "to": ["*"], "ports": ["tcp/443"], "apps": ["unit:web.service"]},
        {"id": "ping", "from": ["*"], "to": ["*"], "ports": ["icmp"], "expires_at": "2026-11-25T12:00:00Z"},
        {"id": "hashed", "from": ["*"], "to": ["tag:db"], "ports": ["udp/*"], "apps": [f"sha256:{'ab' * 32} uid:1000"]},
        {
            "id": "hours",
            "from": ["*"],
            "to": ["*"],
            "ports": ["tcp/8101"],
            "when": [{"days": ["mon-fri"], "from": "09:00", "to": "13:01", "zone": "+01:00"}],
        },
        {"id": "attached", "from": ["external:gw-1"], "to": ["*"], "ports": ["tcp/8050"]},
        {
            "id": "across",
            "from": ["*"],
            "to": ["10.0.0.0/8", "tag:db"],
            "ports": ["tcp/*"],
            "interconnect": "office->lab",
        },
        {"id": "back", "from": ["tag:staff"], "to": ["*"], "ports": ["*"], "interconnect": "lab -> office"},
        {"id": "one", "from": ["node:ep-1"], "to": ["node:ep-2"], "ports": ["*"], "vnis": ["office"]},
    ],
}


_CROSSINGS = [
    {"vni": {"id": 1, "name": "office"}, "src": "10.201.0.2", "dst": "10.202.0.3"},
    {"vni": {"id": 2, "name": "lab"}, "src": "fd21::2", "dst": "fd22::3"},
]


def some_input(random_: random.Random, point: str) -> dict[str, Any]:
    def party(number: int) -> dict[str, Any]:
        return {
            "node": f"ep-{number}",
            "name": f"host-{number}",
            "role": random_.choice(["endpoint", "gateway"]),
            "tags": random_.sample(["staff", "web", "guest", "db"], random_.randint(0, 2)),
            "groups": random_.sample(["dev", "ops"], random_.randint(0, 1)),
            "owner": random_.choice(["ann", "bob", ""]),
        }

    now = random_.choice(
        ["2026-11-25T11:59:59Z", "2026-11-25T12:00:00Z", "2026-11-28T23:30:00Z", "2027-01-01T00:00:00Z"]
    )
    programs = [None, {"path": "/usr/bin/curl", "sha256": "ab" * 32, "uid": 1000, "unit": "web.service"}]
    return {
        "point": point,
        "now": now,
        "week_minute": week_minute(now),
        "tenant": "acme",
        "vni": random_.choice([{"id": 1, "name": "office"}, {"id": 2, "name": "lab"}]),
        "device": party(random_.randint(1, 3)),
        "peer": random_.choice([None, party(random_.randint(1, 3))]),
        "posture": {"disk_encrypted": random_.random() < 0.5},
        "app": random_.choice(programs),
        "claims": {"heard": random_.random() < 0.5, "app": random_.choice(programs)},
        "src": {"ip": "10.7.0.2", "port": random_.randint(1024, 65535)},
        "dst": {
            "ip": random_.choice(["10.7.0.3", "10.8.1.1", "192.168.1.1", "fd07::9", "fd08::1"]),
            "port": random_.choice([22, 53, 80, 443, 8000, 8050, 8101]),
        },
        "proto": random_.choice(["tcp", "udp", "icmp", "132"]),
        "icmp_type": None,
        "direction": "out",
        "gateway": "",
        "attachment": random_.choice(["", "gw-1", "gw-2"]),
        "interconnect": random_.choice(_CROSSINGS) if point == "interconnect" else None,
    }
