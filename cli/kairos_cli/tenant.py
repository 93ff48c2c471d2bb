"""`kairos tenant ...`."""

from __future__ import annotations

import argparse

from kairos.api.admin import Tenant, TenantCreate
from kairos_cli import policy
from kairos_cli.admin import AdminClient, at, client
from kairos_cli.output import as_fields, as_json, as_table, moment

_ALL = "/v1/tenants"


def create(options: argparse.Namespace) -> None:
    made, version = make(client(options), options.tenant)
    if options.json:
        as_json(made)
    else:
        print(f"tenant {made.tenant} made; the shipped policy is in force as version {version}")
        print(f"Next: export KAIROS_TENANT={made.tenant}; kairos token create --role gateway")


def make(admin: AdminClient, name: str) -> tuple[Tenant, int]:
    """The tenant, with the shipped policy pushed to it: its version."""
    bundle = policy.shipped_bundle()
    made = admin.send("POST", _ALL, TenantCreate(name), Tenant)
    return made, policy.push_bundle(admin, name, bundle).version


def listing(options: argparse.Namespace) -> None:
    tenants = client(options).pages(_ALL, Tenant)
    if options.json:
        as_json(tenants)
    else:
        rows = [(each.tenant, moment(each.created_at)) for each in tenants]
        as_table(("TENANT", "CREATED"), rows, "no tenant yet; kairos tenant create NAME")


def show(options: argparse.Namespace) -> None:
    tenant = client(options).get(at(options.tenant), Tenant)
    if options.json:
        as_json(tenant)
    else:
        as_fields([("tenant", tenant.tenant), ("created", moment(tenant.created_at))])


def delete(options: argparse.Namespace) -> None:
    client(options).delete(at(options.tenant))
    print(f"tenant {options.tenant} and its records are deleted; its audit stays")
