"""Verbs for what a tenant is made of: its network segments and who is in them."""

from __future__ import annotations

from pathlib import Path

from kairos_cli.registry.verb import ADMIN, DEVICE, IN_TENANT, OPERATOR, VNI, Verb, arg

SEGMENTS = (
    Verb(
        "tenant create",
        "tenant:create",
        "create a tenant and push the shipped policy to it",
        (
            arg("tenant", help="its name, a DNS label"),
            arg("--shard", help="D1 binding of its database (default: that with the fewest tenants)", default=""),
            *ADMIN,
        ),
    ),
    Verb("tenant list", "tenant:listing", "list tenants", ADMIN),
    Verb("tenant show", "tenant:show", "one tenant", (arg("tenant", help="its name"), *ADMIN)),
    Verb(
        "tenant move",
        "tenant:move",
        "move a tenant's records to another database",
        (arg("tenant", help="its name"), arg("shard", help="the D1 binding: DB, DB_1, ..."), *ADMIN),
    ),
    Verb(
        "tenant delete",
        "tenant:delete",
        "delete a tenant and all its records",
        (arg("tenant", help="its name"), *ADMIN),
    ),
    Verb(
        "vni create",
        "vni:create",
        "create a network segment",
        (
            arg("name", help="its name, a DNS label"),
            arg(
                "--prefix",
                help="IPv4 or IPv6 network of its addresses; repeat for more",
                action="append",
                required=True,
            ),
            arg("--id", help="VNI number, 1 to 16777215 (default: the next free)", type=int, default=0),
            arg("--mtu", help="inner MTU in bytes (default 1380)", type=int, default=1380),
            arg("--dns-suffix", help="DNS suffix of its hosts", default=""),
            arg(
                "--route",
                help="PREFIX=GATEWAY: a network behind a gateway; repeat for more",
                action="append",
                default=[],
            ),
            arg("--selector", help="tag:X or group:X: who is a member by itself; repeat", action="append", default=[]),
            *IN_TENANT,
        ),
    ),
    Verb(
        "vni set",
        "vni:change",
        "change a network segment; what is not named stays",
        (
            arg("name", help="its name or number"),
            arg("--prefix", help="all its prefixes anew; repeat for more", action="append"),
            arg("--mtu", help="inner MTU in bytes", type=int),
            arg("--dns-suffix", help="DNS suffix of its hosts"),
            arg("--route", help="PREFIX=GATEWAY, all routes anew; '' for none", action="append"),
            arg("--selector", help="tag:X or group:X, all selectors anew; '' for none", action="append"),
            *IN_TENANT,
        ),
    ),
    Verb("vni list", "vni:listing", "list network segments", IN_TENANT),
    Verb("vni show", "vni:show", "one network segment", (arg("name", help="its name or number"), *IN_TENANT)),
    Verb(
        "vni delete",
        "vni:delete",
        "delete a network segment; its members lose it",
        (arg("name", help="its name or number"), *IN_TENANT),
    ),
    Verb("member list", "member:listing", "who is in a network segment", (VNI, *IN_TENANT)),
    Verb(
        "member add",
        "member:add",
        "put a device into a network segment, or give it other addresses there",
        (
            VNI,
            DEVICE,
            arg("--address", help="one it must have; repeat for more prefixes", action="append", default=[]),
            *IN_TENANT,
        ),
    ),
    Verb("member remove", "member:remove", "take a device out of a network segment", (VNI, DEVICE, *IN_TENANT)),
    Verb(
        "apply",
        "apply:apply",
        "make tenants, network segments and members as a TOML file says",
        (
            arg("file", help="the file", type=Path),
            arg("--dry-run", help="only print what would change", action="store_true"),
            arg("--prune", help="also delete what these tenants have and the file does not name", action="store_true"),
            OPERATOR,
        ),
    ),
)
