"""Verbs for the ways out of network segments at gateways."""

from __future__ import annotations

from kairos_cli.registry.verb import IN_TENANT, Verb, arg

UPLINKS = (
    Verb(
        "uplink list",
        "uplink:listing",
        "ways out of network segments, as gateways last reported them; [[uplink]] in gateway.toml makes them",
        IN_TENANT,
    ),
    Verb(
        "uplink show",
        "uplink:show",
        "the ways out of one network segment",
        (arg("vni", help="its name"), *IN_TENANT),
    ),
)
