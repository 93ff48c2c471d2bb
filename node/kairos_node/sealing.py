"""A node's keys on disk, sealed with a key that systemd hands over: out of the TPM, or from under the host's own key.

The sealing key is the credential `kairos.seal` of the service (systemd.exec(5), LoadCredentialEncrypted=; docs/operations.md has the
commands). A disk, a backup or a copy of the state directory alone then holds no seed.

`cryptography` is imported where it is used: it loads OpenSSL, and a daemon first has to choose the TLS group (kairos_node.openssl_groups).
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from kairos.errors import UNREADABLE, BadMessage, Refused

CREDENTIAL = "kairos.seal"
KEY_BYTES = 32
_NONCE_BYTES = 12
_BOUND_TO = b"kairos/1 sealed identity"


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sealed: bytes
    """A 12-byte nonce and AES-256-GCM."""


def sealing_key() -> bytes | None:
    """None: this process was given none. Raises Refused for a credential that is no key."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / CREDENTIAL if folder else None
    if path is None or not path.exists():
        return None
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise Refused("bad-config", f"the credential {CREDENTIAL} is {len(key)} bytes, not {KEY_BYTES}")
    return key


def is_sealed(data: bytes) -> bool:
    return data.startswith(b'{"sealed":')


def seal(data: bytes, key: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    return msgspec.json.encode(_Sealed(nonce + AESGCM(key).encrypt(nonce, data, _BOUND_TO)))


def unseal(data: bytes, key: bytes | None) -> bytes:
    """Raises Refused: there is no key, or another one; BadMessage: the file is damaged."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed).sealed
    except UNREADABLE as error:
        raise BadMessage(f"the sealed identity is damaged: {error}") from None
    if key is None:
        raise Refused(
            "sealed", f"the keys of this node are sealed; start it as a service with the credential {CREDENTIAL}"
        )
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _BOUND_TO)
    except (InvalidTag, ValueError):
        raise Refused(
            "sealed",
            f"the keys of this node were sealed with another {CREDENTIAL}, or are damaged; restore it, or remove "
            "identity.json and enroll anew",
        ) from None
