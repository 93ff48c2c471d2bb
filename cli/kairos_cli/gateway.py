"""`kairos gateway list | set`: the operator's side; what runs on a gateway itself is in kairos_cli.node."""

from __future__ import annotations

import argparse

from kairos.api.admin import GatewayRank, GatewayRecord
from kairos.errors import KairosError
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.device import named
from kairos_cli.output import as_json, as_table


def listing(options: argparse.Namespace) -> None:
    gateways = client(options).pages(at(tenant_of(options), "gateways"), GatewayRecord)
    if options.json:
        as_json(gateways)
    else:
        ranked = sorted(gateways, key=lambda each: (each.priority, each.node))
        rows = [(each.node, each.name, each.priority, each.weight, "online" if each.online else "") for each in ranked]
        as_table(("NODE", "NAME", "PRIORITY", "WEIGHT", ""), rows, "no gateway yet; kairos token create --role gateway")


def change(options: argparse.Namespace) -> None:
    """What is not named stays as it is."""
    admin, tenant, node = named(options)
    now = next((each for each in admin.pages(at(tenant, "gateways"), GatewayRecord) if each.node == node), None)
    if now is None:
        raise KairosError(f"{options.device} is no active gateway of {tenant}; `kairos gateway list` shows them")
    wanted = GatewayRank(
        now.priority if options.priority is None else options.priority,
        now.weight if options.weight is None else options.weight,
    )
    after = admin.send("PUT", at(tenant, "gateways", node), wanted, GatewayRecord)
    if options.json:
        as_json(after)
    else:
        print(f"{after.node} has priority {after.priority} and weight {after.weight}; endpoints follow by themselves")
