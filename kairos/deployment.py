"""What a deployer and the Workers must agree on: the names of variables and secrets, and how a long value becomes several variables.

Cloudflare takes 5 KB a variable or secret (https://developers.cloudflare.com/workers/platform/limits/#environment-variables). A
certificate with an ML-DSA key in base64 has 7,388 characters in KR1 and 10,000 in KR5, so it is split over numbered variables.

The issuing CA's certificate is a variable and its seed is a secret, and Cloudflare stores the two in different calls. The seed's name
holds the id of the certificate, so a Worker signs with the seed of the certificate that it serves, or not at all: a new seed may be
stored before the new certificate is deployed, and the old one removed after.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from kairos.errors import KairosError
from kairos.identity.transcript import fingerprint

PART_BYTES = 4096
OBJECT_SOCKETS_MAX = 30_000
"""Cloudflare's limit is 32,768 WebSockets an object; gateways have theirs at the same object."""
OBJECT_SOCKETS = OBJECT_SOCKETS_MAX
"""For how many devices one Durable Object holds the events sockets, unless fabric.toml says otherwise. A push to all takes it 0.1 ms for
each of them."""
_ID_DIGITS = 16


class SettingsError(KairosError):
    """A variable or secret of a Worker is missing or has no meaning. The text names it."""


def parts(name: str, value: str) -> dict[str, str]:
    """NAME_1, NAME_2, ...: the pieces of an ASCII value, each of at most PART_BYTES bytes."""
    pieces = [value[start : start + PART_BYTES] for start in range(0, len(value), PART_BYTES)]
    return {f"{name}_{number}": piece for number, piece in enumerate(pieces, 1)}


def joined(name: str, variable: Callable[[str], str]) -> str:
    """The value whose pieces are NAME_1, NAME_2, ... `variable` gives one by its name, or an empty string. Raises SettingsError."""
    value, number = "", 1
    while piece := variable(f"{name}_{number}"):
        value, number = value + piece, number + 1
    if not value:
        raise SettingsError(f"the variable {name}_1 is missing; run: kairos fabric deploy")
    return value


def issuer_id(certificate: bytes) -> str:
    """The id of an issuing CA: the first 16 digits of its certificate's fingerprint."""
    return fingerprint(certificate).hex()[:_ID_DIGITS]


def issuer_seed_name(certificate: bytes) -> str:
    """The name of the secret that holds the seed of the key that this certificate (DER) is for."""
    return f"ISSUER_SEED_{issuer_id(certificate).upper()}"


def internal_key(root: str, purpose: str) -> str:
    """The key that one Worker shows another for one purpose, in hex: HMAC-SHA256 of the fabric's internal key. Keys of other purposes do not
    follow from it. Purposes: `introspection` (the relay asks the control plane), `cut` (the control plane tells the relay), `object` (the
    control plane calls its own Tenant objects)."""
    return hmac.new(root.encode(), f"kairos internal {purpose}".encode(), hashlib.sha256).hexdigest()
