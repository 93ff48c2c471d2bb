"""Verbs for how a tenant's gateways share its VNIs."""

from __future__ import annotations

from kairos_cli.registry.verb import IN_TENANT, Verb, arg

GATEWAYS = (
    Verb("gateway list", "gateway:listing", "the tenant's gateways, preferred ones first", IN_TENANT),
    Verb(
        "gateway set",
        "gateway:change",
        "prefer a gateway, or give it a greater share of the VNIs; what is not named stays",
        (
            arg("device", help="node id of the gateway, or its name if that is unique", metavar="gateway"),
            arg("--priority", help="0 to 65535: the lowest serves, the others stand by (default 100)", type=int),
            arg("--weight", help="1 to 65535: share of the VNIs among one priority (default 100)", type=int),
            *IN_TENANT,
        ),
    ),
)
