"""Verbs for devices: how they join, and how they are cut off."""

from __future__ import annotations

from kairos_cli.registry.verb import DEVICE, IN_TENANT, Verb, arg

DEVICES = (
    Verb(
        "token create",
        "token:create",
        "make a join token and print it, once; the fabric keeps only a hash of its secret",
        (
            arg("--role", help="what joins with it", choices=("endpoint", "gateway"), default="endpoint"),
            arg("--vni", help="network segment it joins; repeat for more", action="append", default=[]),
            arg("--tag", help="tag the node gets; repeat for more", action="append", default=[]),
            arg("--group", help="group the node gets; repeat for more", action="append", default=[]),
            arg("--owner", help="person the node belongs to", default=""),
            arg("--label", help="a note for the listing", default=""),
            arg("--uses", help="how many nodes may join with it (default 1)", type=int, default=1),
            arg("--life", help="how long it is good: 90s, 30m, 1h, 7d (default 1h)", default="1h"),
            *IN_TENANT,
        ),
    ),
    Verb("token list", "token:listing", "list join tokens", IN_TENANT),
    Verb("token show", "token:show", "one join token, without its secret", (arg("token", help="token id"), *IN_TENANT)),
    Verb(
        "token delete",
        "token:delete",
        "delete a join token: nobody joins with it any more",
        (arg("token", help="token id"), *IN_TENANT),
    ),
    Verb("device list", "device:listing", "list devices and gateways", IN_TENANT),
    Verb("device show", "device:show", "one device or gateway", (DEVICE, *IN_TENANT)),
    Verb("device approve", "device:approve", "let a held device in", (DEVICE, *IN_TENANT)),
    Verb(
        "device deny",
        "device:deny",
        "turn a held device away",
        (DEVICE, arg("--reason", help="what it is told", default="denied by the operator"), *IN_TENANT),
    ),
    Verb(
        "device delete", "device:delete", "revoke a device: its certificates and sessions die now", (DEVICE, *IN_TENANT)
    ),
)

CERTIFICATES = (
    Verb(
        "certificate list",
        "certificate:listing",
        "certificates that have not ended, and which of them are refused",
        (
            arg("device", help="only of this node: its id, or its name if that is unique", nargs="?", default=""),
            *IN_TENANT,
        ),
    ),
    Verb(
        "certificate revoke",
        "certificate:revoke",
        "have a certificate refused everywhere from now on; a device whose present one it is rotates its key",
        (
            arg("serial", help="as `kairos certificate list` shows it"),
            arg("--reason", help="kept in the audit", required=True),
            *IN_TENANT,
        ),
    ),
)

_CUT = (
    DEVICE,
    arg("--reason", help="said to everyone and kept in the audit", required=True),
    arg("--wait", help="seconds to wait for the receipts (default 5)", type=float, default=5.0),
    *IN_TENANT,
)
ISOLATION = (
    Verb("posture", "device:posture", "what policy sees of a device's own state", (DEVICE, *IN_TENANT)),
    Verb("isolate", "isolate:isolate", "cut a device off everywhere at once; shows who has enforced it", _CUT),
    Verb("release", "isolate:release", "end a device's isolation", _CUT),
)
