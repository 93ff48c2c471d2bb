"""`kairos route ...`: networks behind endpoints."""

from __future__ import annotations

import argparse

from kairos.api.admin import RouteApproval, RouteRecord
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.device import named
from kairos_cli.output import as_json, as_table


def listing(options: argparse.Namespace) -> None:
    routes = client(options).pages(at(tenant_of(options), "routes"), RouteRecord)
    if options.json:
        as_json(routes)
    else:
        rows = [(each.vni, each.prefix, each.node, each.name, _state(each)) for each in routes]
        as_table(
            ("VNI", "PREFIX", "NODE", "NAME", "STATE"),
            rows,
            "no endpoint offers a network; name some as `advertise` in its agent.toml",
        )


def approve(options: argparse.Namespace) -> None:
    _decide(options, True)


def withdraw(options: argparse.Namespace) -> None:
    _decide(options, False)


def _decide(options: argparse.Namespace, approved: bool) -> None:
    admin, tenant, node = named(options)
    wanted = RouteApproval(options.prefix, node, approved)
    route = admin.send("PUT", at(tenant, "vnis", options.vni, "routes"), wanted, RouteRecord)
    if options.json:
        as_json(route)
    else:
        print(f"{route.prefix} in {route.vni} through {route.node}: {_state(route)}")


def _state(route: RouteRecord) -> str:
    if route.approved:
        return "in force" if route.advertised else "approved, not offered yet"
    return "waits for approval" if route.advertised else "withdrawn"
