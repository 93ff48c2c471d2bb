"""Verbs that make, run and deploy a fabric."""

from __future__ import annotations

from kairos_cli.registry.verb import ADMIN, OPERATOR, Verb, arg

FABRIC = (
    Verb(
        "fabric init",
        "fabric.init:run",
        "make a new fabric's keys: root CA, policy key, issuing CA, admin credential",
        (
            OPERATOR,
            arg("--suite", help="KR1 (default) or KR5 (CNSA 2.0 level); fixed for the fabric's life", default="KR1"),
            arg(
                "--trust-domain", help="name in every certificate (default: kairos.internal)", default="kairos.internal"
            ),
            arg("--url", help="where nodes reach the fabric (default: http://127.0.0.1:8787)", default=None),
            arg("--session-life", help="how long a tunnel outlives a silent fabric: 15s to 5m (default)", default="5m"),
            arg("--relay-url", help="where nodes reach the relay (default: the fabric's port + 1)", default=None),
            arg("--passphrase", help="seal root.seed and policy.seed with a passphrase", action="store_true"),
        ),
    ),
    Verb(
        "fabric passphrase",
        "fabric.init:set_passphrase",
        "seal root.seed and policy.seed with a passphrase, or change it",
        (OPERATOR,),
    ),
    Verb(
        "fabric dev",
        "fabric.dev:run",
        "run the fabric on this machine, in the foreground, state on disk",
        (
            OPERATOR,
            arg("--state", help="where its state lives (default: state/ in the operator directory)", default=None),
            arg("--host", help="address to listen on (default: from the fabric's URL)", default=None),
            arg("--port", help="port of the fabric; the relay takes the next", type=int, default=None),
            arg("--json", help="say in one line of JSON that it is ready, and where", action="store_true"),
        ),
    ),
    Verb(
        "fabric deploy",
        "fabric.deploy:run",
        "put the fabric into your Cloudflare account: database, secrets, both Workers",
        (
            OPERATOR,
            arg("--dry-run", help="build and check all, change nothing", action="store_true"),
            arg("--json", help="with --dry-run: the figures, for programs", action="store_true"),
        ),
    ),
    Verb(
        "fabric upgrade",
        "fabric.upgrade:run",
        "bring a deployed fabric to this version while its nodes stay connected",
        (OPERATOR,),
    ),
    Verb("fabric doctor", "fabric.doctor:run", "say what is wrong with a fabric, and what to do", ADMIN),
    Verb(
        "fabric rotate",
        "fabric.rotate:run",
        "replace the internal key or the root credential, both good until --finish",
        (
            arg("what", choices=["internal-key", "root-credential"], help="which of the two"),
            OPERATOR,
            arg("--finish", help="the previous one is accepted no longer", action="store_true"),
        ),
    ),
    Verb("fabric info", "fabric.info:run", "what the fabric says of itself, against what you pinned", ADMIN),
    Verb(
        "fabric renew",
        "fabric.init:renew",
        "certify a new issuing CA key with the root (it lives 90 days)",
        (OPERATOR,),
    ),
)
