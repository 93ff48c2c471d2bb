"""The variables and secrets of the two Workers. Each holds only what it needs."""

from __future__ import annotations

import base64
import hashlib
from typing import Literal

from kairos.deployment import internal_key, issuer_seed_name, parts
from kairos_cli.fabric.operator import Operator, OperatorError

Worker = Literal["control", "relay"]
WORKERS: tuple[Worker, ...] = ("control", "relay")
CONFIGURATION: dict[Worker, str] = {"control": "wrangler.toml", "relay": "wrangler.relay.toml"}


def variables(operator: Operator, worker: Worker) -> dict[str, str]:
    """The plain variables. The relay has none: it asks the control plane about each session."""
    if worker == "relay":
        return {}
    return {
        "SUITE": operator.suite.name,
        "TRUST_DOMAIN": operator.trust_domain,
        "RELAY_URL": operator.relay_url,
        "SESSION_LIFE_S": str(operator.session_life_s),
        "OBJECT_SOCKETS": str(operator.object_sockets),
        "POLICY_KEY": _b64(operator.policy_key),
        **parts("ROOT_CERTIFICATE", _b64(operator.root_certificate)),
        **parts("ISSUER_CERTIFICATE", _b64(operator.issuer_certificate)),
    }


def secrets(operator: Operator, worker: Worker) -> dict[str, str]:
    """The secrets. The root seed and the policy seed are never among them. A `_PREVIOUS` key is there only during a
    rotation; the Worker accepts it as well. Raises OperatorError."""
    key, previous = operator.internal_key, operator.previous("internal.key")
    introspection, cut = internal_key(key, "introspection"), internal_key(key, "cut")
    if worker == "relay":
        held = {"INTROSPECTION_KEY": introspection, "CUT_KEY": cut}
        return held | ({"CUT_KEY_PREVIOUS": internal_key(previous, "cut")} if previous else {})
    held = {
        issuer_seed_name(operator.issuer_certificate): _b64(_matching_seed(operator)),
        "ADMIN_TOKEN_SHA256": _sha256(operator.admin_token),
        "INTROSPECTION_KEY": introspection,
        "CUT_KEY": cut,
        "OBJECT_KEY": internal_key(key, "object"),
    }
    if previous:
        held["INTROSPECTION_KEY_PREVIOUS"] = internal_key(previous, "introspection")
    elif operator.is_from_before_0_2:
        held["INTROSPECTION_KEY_PREVIOUS"] = key  # what the relay shows until it is deployed anew: Operator.leave_0_1
    if former := operator.previous("admin.token"):
        held["ADMIN_TOKEN_SHA256_PREVIOUS"] = _sha256(former)
    return held


def _matching_seed(operator: Operator) -> bytes:
    """The issuer's seed, which must be the one of its certificate: with another, every signature of the fabric would
    be false."""
    from kairos.identity.certificate import parse_certificate_untrusted
    from kairos_node.crypto import provider_named

    seed, certificate = operator.issuer_seed, parse_certificate_untrusted(operator.issuer_certificate)
    if provider_named("cryptography").signing_key(operator.suite, seed).public_key != certificate.public_key:
        raise OperatorError(
            f"the issuer's seed in {operator.folder} is not of the key in issuer.der; run: kairos fabric renew"
        )
    return seed


def _sha256(credential: str) -> str:
    return hashlib.sha256(credential.encode()).hexdigest()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
