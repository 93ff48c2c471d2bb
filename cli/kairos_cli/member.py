"""`kairos member ...`."""

from __future__ import annotations

import argparse

from kairos.api.admin import MemberRecord, MemberWanted
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.device import named
from kairos_cli.output import as_json, as_table, listed


def listing(options: argparse.Namespace) -> None:
    members = client(options).pages(at(tenant_of(options), "vnis", options.vni, "members"), MemberRecord)
    if options.json:
        as_json(members)
    else:
        rows = [(each.node, each.name, each.role, listed(each.addresses)) for each in members]
        as_table(("NODE", "NAME", "ROLE", "ADDRESSES"), rows, f"nobody yet; kairos member add {options.vni} DEVICE")


def add(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    path = at(tenant, "vnis", options.vni, "members", node)
    member = admin.send("PUT", path, MemberWanted(options.address), MemberRecord)
    if options.json:
        as_json(member)
    else:
        print(f"{member.node} is in {options.vni} with {listed(member.addresses)}")


def remove(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    admin.delete(at(tenant, "vnis", options.vni, "members", node))
    print(f"{node} is out of {options.vni}; its other VNIs are untouched")
