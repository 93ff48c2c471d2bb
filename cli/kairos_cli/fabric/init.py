"""`kairos fabric init` and `renew`: the keys of a fabric."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import time
from pathlib import Path
from urllib.parse import urlsplit

from kairos.constants import SESSION_LIFE_MIN_S, SESSION_LIFE_S
from kairos.crypto.suites import SEED_BYTES, suite_named
from kairos.deployment import issuer_id
from kairos.errors import KairosError
from kairos.identity.certificate import parse_certificate_untrusted
from kairos.identity.transcript import fingerprint
from kairos_cli.duration import seconds
from kairos_cli.fabric.operator import Operator, base64_line, directory, seed, write_files
from kairos_cli.fabric.sealed_seed import new_passphrase, seal
from kairos_cli.output import as_fields, hex_groups, moment

_OFFLINE = ("root", "policy")  # seeds that the Workers never get
_DEFAULT_URL = "http://127.0.0.1:8787"


def run(options: argparse.Namespace) -> None:
    folder = directory(options.dir)
    if (folder / "fabric.toml").exists():
        raise KairosError(f"{folder} holds a fabric already; name another directory with --dir")
    url = (options.url or _DEFAULT_URL).rstrip("/")
    life = seconds("--session-life", options.session_life)
    if not SESSION_LIFE_MIN_S <= life <= SESSION_LIFE_S:
        raise KairosError(f"--session-life {options.session_life}: {SESSION_LIFE_MIN_S}s to {SESSION_LIFE_S // 60}m")
    passphrase = new_passphrase() if options.passphrase else ""
    operator = create(
        folder, options.suite, options.trust_domain, url, options.relay_url or _beside(url), life, passphrase
    )
    _show(operator)
    print(
        f"\nKeep {folder} safe: root.seed and policy.seed are the fabric. Next: kairos fabric dev, or kairos fabric deploy"
    )


def set_passphrase(options: argparse.Namespace) -> None:
    """`kairos fabric passphrase`: seals the seeds of an existing directory, or changes their passphrase."""
    operator = Operator.load(directory(options.dir))
    seeds = {name: seed(operator.folder, name) for name in _OFFLINE if (operator.folder / f"{name}.seed").exists()}
    if not seeds:
        raise KairosError(f"there are no root.seed and policy.seed in {operator.folder}")
    new = new_passphrase()
    write_files(operator.folder, [(f"{name}.seed", _seed_line(value, name, new)) for name, value in seeds.items()])
    print(f"Sealed: {', '.join(f'{name}.seed' for name in seeds)}. Without the passphrase they are lost.")


def renew(options: argparse.Namespace) -> None:
    from kairos_node.ca import make_issuer
    from kairos_node.crypto import provider_named

    operator = Operator.load(directory(options.dir))
    root = parse_certificate_untrusted(operator.root_certificate)
    issuer_seed = os.urandom(SEED_BYTES)
    issuer = make_issuer(
        provider_named("cryptography"), root, seed(operator.folder, "root"), issuer_seed, operator.trust_domain,
        int(time.time()), os.urandom,
    )  # fmt: skip
    # The seed first, under the certificate's id: a crash between the two leaves the old pair in force.
    write_files(operator.folder, [(_seed_file(issuer), base64_line(issuer_seed)), ("issuer.der", issuer)])
    _show(Operator.load(operator.folder))
    print(
        "\nNext: kairos fabric deploy, or start kairos fabric dev again. Nodes take the new issuer with their next renewal."
    )


def create(
    folder: Path, suite_name: str, trust_domain: str, url: str, relay_url: str, session_life_s: int = SESSION_LIFE_S,
    passphrase: str = "",
) -> Operator:  # fmt: skip
    """Makes all keys and writes them. passphrase: seals the seeds of root CA and policy key; empty: they are not sealed. fabric.toml is written last, so that an incomplete directory is not taken for
    a fabric."""
    from kairos_node.ca import make_issuer, make_root
    from kairos_node.crypto import provider_named

    suite = suite_named(suite_name)
    provider, now = provider_named("cryptography"), int(time.time())
    root_seed, issuer_seed, policy_seed = (os.urandom(SEED_BYTES) for _ in range(3))
    root = make_root(provider, suite, trust_domain, root_seed, now, os.urandom)
    issuer = make_issuer(
        provider, parse_certificate_untrusted(root), root_seed, issuer_seed, trust_domain, now, os.urandom
    )
    facts = {
        "suite": suite.name, "trust_domain": trust_domain, "url": url, "relay_url": relay_url,
        "session_life_s": session_life_s,
    }  # fmt: skip
    write_files(
        folder,
        [
            ("root.seed", _seed_line(root_seed, "root", passphrase)),
            (_seed_file(issuer), base64_line(issuer_seed)),
            ("policy.seed", _seed_line(policy_seed, "policy", passphrase)),
            ("policy.pub", base64_line(provider.signing_key(suite, policy_seed).public_key)),
            ("root.der", root),
            ("issuer.der", issuer),
            ("admin.token", f"kairos-admin-{secrets.token_urlsafe(32)}\n".encode()),
            ("internal.key", f"{secrets.token_urlsafe(32)}\n".encode()),
            ("fabric.toml", "".join(f"{name} = {json.dumps(value)}\n" for name, value in facts.items()).encode()),
        ],
    )
    return Operator.load(folder)


def _seed_line(seed: bytes, name: str, passphrase: str) -> bytes:
    return seal(seed, name, passphrase) if passphrase else base64_line(seed)


def _seed_file(issuer: bytes) -> str:
    return f"issuer-{issuer_id(issuer)}.seed"


def _beside(url: str) -> str:
    """The relay's URL where none was given: the next port, or the host's sibling `relay.`."""
    parts = urlsplit(url)
    if parts.port is not None:
        return f"{parts.scheme}://{parts.hostname}:{parts.port + 1}"
    return f"{parts.scheme}://relay.{parts.hostname}"


def _show(operator: Operator) -> None:
    issuer = parse_certificate_untrusted(operator.issuer_certificate)
    as_fields(
        [
            ("suite", operator.suite.name),
            ("trust domain", operator.trust_domain),
            ("fabric", operator.url),
            ("relay", operator.relay_url),
            ("root CA", hex_groups(fingerprint(operator.root_certificate))),
            ("policy key", hex_groups(fingerprint(operator.policy_key))),
            ("issuer until", moment(issuer.not_after)),
            ("directory", operator.folder),
        ]
    )
