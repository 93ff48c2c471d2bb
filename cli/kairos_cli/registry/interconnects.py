"""Verbs for what leads from one network segment into another."""

from __future__ import annotations

from kairos_cli.registry.verb import IN_TENANT, Verb, arg

_PAIR = (arg("a", help="one VNI, name or number"), arg("b", help="the other"))

INTERCONNECTS = (
    Verb(
        "interconnect create",
        "interconnect:create",
        "join two network segments at the gateways; policy still decides about each connection",
        (
            *_PAIR,
            arg(
                "--map",
                help="VNI:PREFIX=NAME: that VNI's prefix is called NAME on the other side; repeat; without one it keeps its name",
                action="append",
                default=[],
            ),
            *IN_TENANT,
        ),
    ),
    Verb("interconnect list", "interconnect:listing", "list interconnects", IN_TENANT),
    Verb("interconnect show", "interconnect:show", "one interconnect", (*_PAIR, *IN_TENANT)),
    Verb(
        "interconnect delete",
        "interconnect:delete",
        "part two network segments; what lives across is cut",
        (*_PAIR, *IN_TENANT),
    ),
)
