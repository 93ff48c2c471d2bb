"""`kairos token ...`: join tokens. The secret is made here and shown once; the fabric gets its hash."""

from __future__ import annotations

import argparse
import os

from kairos.api.admin import TokenCreate, TokenRecord
from kairos.identity.join_token import SECRET_BYTES, JoinToken
from kairos.identity.transcript import fingerprint
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.duration import seconds
from kairos_cli.output import as_fields, as_json, as_table, listed, moment


def create(options: argparse.Namespace) -> None:
    admin, tenant = client(options), tenant_of(options)
    secret = os.urandom(SECRET_BYTES)
    wanted = TokenCreate(
        options.role, fingerprint(secret), options.uses, seconds("--life", options.life), options.vni, options.tag, options.group,
        options.owner, options.label,
    )  # fmt: skip
    made = admin.send("POST", at(tenant, "tokens"), wanted, TokenRecord)
    operator = admin.operator
    text = str(
        JoinToken(
            operator.url, operator.trust_domain, operator.suite.name, tenant, options.role, made.token_id, secret,
            fingerprint(operator.root_certificate), fingerprint(operator.policy_key),
        )
    )  # fmt: skip
    if options.json:
        as_json({"token": text, "token_id": made.token_id, "expires_at": made.expires_at})
        return
    verb = "agent" if options.role == "endpoint" else "gateway"
    print(f"{text}\n\nShown once. Good for {made.uses} {options.role}(s) until {moment(made.expires_at)}.")
    print(f"There: kairos {verb} enroll TOKEN && kairos {verb} run")


def listing(options: argparse.Namespace) -> None:
    tokens = client(options).pages(at(tenant_of(options), "tokens"), TokenRecord)
    if options.json:
        as_json(tokens)
    else:
        rows = [
            (
                each.token_id,
                each.role,
                f"{each.used}/{each.uses}",
                moment(each.expires_at),
                listed(each.vnis),
                listed(each.tags),
                each.label,
            )
            for each in tokens
        ]
        as_table(
            ("TOKEN", "ROLE", "USED", "UNTIL", "VNIS", "TAGS", "LABEL"), rows, "no join token yet; kairos token create"
        )


def show(options: argparse.Namespace) -> None:
    token = client(options).get(at(tenant_of(options), "tokens", options.token), TokenRecord)
    if options.json:
        as_json(token)
    else:
        as_fields(
            [
                ("token", token.token_id),
                ("role", token.role),
                ("used", f"{token.used} of {token.uses}"),
                ("until", moment(token.expires_at)),
                ("vnis", listed(token.vnis)),
                ("tags", listed(token.tags)),
                ("groups", listed(token.groups)),
                ("owner", token.owner),
                ("label", token.label),
            ]
        )


def delete(options: argparse.Namespace) -> None:
    client(options).delete(at(tenant_of(options), "tokens", options.token))
    print(f"join token {options.token} is deleted: nobody joins with it any more")
