"""Verbs for scoped admin credentials."""

from __future__ import annotations

from kairos_cli.registry.verb import CREDENTIAL, JSON, OPERATOR, Verb, arg

_WHERE = (
    arg("--tenant", help="tenant it is for (default: $KAIROS_TENANT)", default=None),
    arg("--all-tenants", help="for every tenant, those to come too; takes the root credential", action="store_true"),
    OPERATOR,
    CREDENTIAL,
    JSON,
)
ADMINS = (
    Verb(
        "admin create",
        "administrators:create",
        "make a scoped credential: a role, in one tenant or in all; its secret is shown once",
        (
            arg("name", help="whose it is, as the audit will name it"),
            arg(
                "--role",
                help="what it may do: look; run devices and segments; also decide",
                choices=("viewer", "operator", "tenant-admin"),
                required=True,
            ),
            arg("--life", help="how long it is good: 12h, 30d (default), at most 366d", default="30d"),
            arg("--out", help="write an administrator's directory, for --dir, in place of showing it", default=None),
            *_WHERE,
        ),
    ),
    Verb("admin list", "administrators:listing", "list scoped credentials", _WHERE),
    Verb(
        "admin revoke",
        "administrators:revoke",
        "revoke a scoped credential: it opens nothing from the next call on",
        (arg("admin", help="its id, from `kairos admin list`"), *_WHERE),
    ),
)
