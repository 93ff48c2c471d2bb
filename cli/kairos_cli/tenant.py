"""`kairos tenant ...`."""

from __future__ import annotations

import argparse

from kairos.api.admin import Tenant, TenantCreate, TenantMove
from kairos_cli import policy
from kairos_cli.admin import AdminClient, at, client
from kairos_cli.output import as_fields, as_json, as_table, moment

_ALL = "/v1/tenants"


def create(options: argparse.Namespace) -> None:
    made, version = make(client(options), options.tenant, options.shard)
    if options.json:
        as_json(made)
    else:
        print(f"tenant {made.tenant} made; the shipped policy is in force as version {version}")
        print(f"Next: export KAIROS_TENANT={made.tenant}; kairos token create --role gateway")


def make(admin: AdminClient, name: str, shard: str = "") -> tuple[Tenant, int]:
    """The tenant, with the shipped policy pushed to it: its version. shard: the D1 binding of its database; empty: the fabric chooses."""
    bundle = policy.shipped_bundle()
    made = admin.send("POST", _ALL, TenantCreate(name, shard), Tenant)
    return made, policy.push_bundle(admin, name, bundle).version


def listing(options: argparse.Namespace) -> None:
    tenants = client(options).pages(_ALL, Tenant)
    if options.json:
        as_json(tenants)
    else:
        rows = [(each.tenant, moment(each.created_at), _place(each)) for each in tenants]
        as_table(("TENANT", "CREATED", "DATABASE"), rows, "no tenant yet; kairos tenant create NAME")


def show(options: argparse.Namespace) -> None:
    tenant = client(options).get(at(options.tenant), Tenant)
    if options.json:
        as_json(tenant)
    else:
        as_fields([("tenant", tenant.tenant), ("created", moment(tenant.created_at)), ("database", _place(tenant))])


def move(options: argparse.Namespace) -> None:
    tenant = client(options).send("POST", at(options.tenant, "move"), TenantMove(options.shard), Tenant)
    if options.json:
        as_json(tenant)
    elif tenant.moving_to:
        print(
            f"the records of {tenant.tenant} are being moved to {tenant.moving_to}: kairos tenant show {tenant.tenant}"
        )
    else:
        print(f"the records of {tenant.tenant} are in {tenant.shard}")


def _place(tenant: Tenant) -> str:
    return f"{tenant.shard}, moving to {tenant.moving_to}" if tenant.moving_to else tenant.shard


def delete(options: argparse.Namespace) -> None:
    client(options).delete(at(options.tenant))
    print(f"tenant {options.tenant} and its records are deleted; its audit stays")
