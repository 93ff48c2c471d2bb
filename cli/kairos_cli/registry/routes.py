"""Verbs for networks behind endpoints."""

from __future__ import annotations

from kairos_cli.registry.verb import DEVICE, IN_TENANT, VNI, Verb, arg

_PREFIX = arg("prefix", help="the network, as in 192.168.70.0/24; 0.0.0.0/0 and ::/0 are exit routes")

ROUTES = (
    Verb("route list", "route:listing", "networks that endpoints offer, and which of them are in force", IN_TENANT),
    Verb(
        "route approve",
        "route:approve",
        "let a network behind an endpoint be reached, now or as soon as the endpoint offers it",
        (VNI, _PREFIX, DEVICE, *IN_TENANT),
    ),
    Verb(
        "route withdraw",
        "route:withdraw",
        "nothing leads to this network through that endpoint any more",
        (VNI, _PREFIX, DEVICE, *IN_TENANT),
    ),
)
