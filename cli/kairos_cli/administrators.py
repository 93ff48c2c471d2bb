"""`kairos admin ...`: scoped credentials. The secret is made here and shown once; the fabric gets its hash."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kairos.api.admin import AdminCreate, AdminRecord
from kairos.errors import KairosError
from kairos.identity.admin_credential import SECRET_BYTES, AdminCredential
from kairos.identity.transcript import fingerprint
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.duration import seconds
from kairos_cli.fabric.operator import write_files
from kairos_cli.output import as_json, as_table, moment


def create(options: argparse.Namespace) -> None:
    admin, secret = client(options), os.urandom(SECRET_BYTES)
    out = Path(options.out) if options.out else None
    if out is not None and out.exists():
        raise KairosError(f"{out} exists; name a new directory with --out")
    wanted = AdminCreate(options.name, options.role, fingerprint(secret), seconds("--life", options.life))
    made = admin.send("POST", _path(options), wanted, AdminRecord)
    credential = str(AdminCredential(made.admin, secret))
    if out is not None:
        write_files(out, [*admin.operator.public_files(), ("admin.token", credential.encode() + b"\n")])
    if options.json:
        as_json({"record": made} | ({"directory": str(out)} if out else {"credential": credential}))
        return
    where = f"tenant {made.tenant}" if made.tenant else "all tenants"
    if out is not None:
        print(f"{out} is {made.name}'s directory: kairos --help, with --dir {out}")
    else:
        print(f"{credential}\n\nShown once.")
    print(f"{made.role} of {where} until {moment(made.expires_at)}; kairos admin revoke {made.admin} ends it")


def listing(options: argparse.Namespace) -> None:
    admins = client(options).pages(_path(options), AdminRecord)
    if options.json:
        as_json(admins)
        return
    rows = [(each.admin, each.name, each.role, moment(each.expires_at), each.created_by) for each in admins]
    as_table(
        ("ADMIN", "NAME", "ROLE", "UNTIL", "MADE BY"),
        rows,
        "no scoped credential yet; kairos admin create NAME --role viewer",
    )


def revoke(options: argparse.Namespace) -> None:
    client(options).delete(_path(options, options.admin))
    print(f"admin credential {options.admin} is revoked: it opens nothing from now on")


def _path(options: argparse.Namespace, *parts: str) -> str:
    """Of the tenant's credentials, or of those for all tenants."""
    if options.all_tenants:
        return "/".join(("/v1/admins", *parts))
    return at(tenant_of(options), "admins", *parts)
