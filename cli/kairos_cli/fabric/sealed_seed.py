"""A seed of the operator directory behind a passphrase.

The file is one line: `kairos-sealed-1 LOG2_N SALT SEALED`, base64 without spaces. The key is scrypt (RFC 7914) of the passphrase with
N = 2^LOG2_N, r = 8, p = 1; SEALED is a 12-byte nonce and AES-256-GCM of the seed, bound to the name of the file.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import os
import sys
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kairos.errors import KairosError

PASSPHRASE_FILE = "KAIROS_PASSPHRASE_FILE"
PASSPHRASE_MIN = 12
"""Characters of a new passphrase."""
_MARK = "kairos-sealed-1"
_LOG2_N = 17  # 128 MiB and about half a second
_LOG2_N_MOST = 22  # 4 GiB: a damaged file must not ask for more
_SALT_BYTES, _NONCE_BYTES = 16, 12


def is_sealed(text: str) -> bool:
    return text.startswith(_MARK)


def seal(seed: bytes, name: str, passphrase: str) -> bytes:
    """The contents of the file. name: of the seed, as `root`."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    sealed = nonce + AESGCM(_key(passphrase, salt, _LOG2_N)).encrypt(nonce, seed, _bound_to(name))
    words = (_MARK, str(_LOG2_N), *(base64.b64encode(each).decode() for each in (salt, sealed)))
    return " ".join(words).encode() + b"\n"


def unseal(text: str, name: str, passphrase: str) -> bytes:
    """Raises KairosError for another passphrase, ValueError for a damaged file."""
    try:
        _, log2_n, salt, sealed = text.split()
        cost, salt_bytes, data = int(log2_n), *(base64.b64decode(each, validate=True) for each in (salt, sealed))
    except (ValueError, binascii.Error):
        raise ValueError(f"{name}.seed is not a sealed seed") from None
    if not 10 <= cost <= _LOG2_N_MOST or len(data) <= _NONCE_BYTES:
        raise ValueError(f"{name}.seed is not a sealed seed")
    try:
        key = _key(passphrase, salt_bytes, cost)
        return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound_to(name))
    except InvalidTag:
        raise KairosError(f"{name}.seed: the passphrase is wrong, or the file is damaged") from None


def new_passphrase() -> str:
    """Of $KAIROS_PASSPHRASE_FILE, or asked for twice. Raises KairosError: nothing is made without one that was asked for."""
    given = _given()
    passphrase = given if given is not None else _asked("New passphrase: ")
    if len(passphrase) < PASSPHRASE_MIN:
        raise KairosError(f"the passphrase is too short: at least {PASSPHRASE_MIN} characters")
    if given is None and _asked("The same again: ") != passphrase:
        raise KairosError("these are two different passphrases; nothing was written")
    return passphrase


@lru_cache(maxsize=1)
def passphrase() -> str:
    """Of $KAIROS_PASSPHRASE_FILE, or asked for, once in a command. Raises KairosError."""
    given = _given()
    return given if given is not None else _asked("Passphrase of the operator directory: ")


def _given() -> str | None:
    path = os.environ.get(PASSPHRASE_FILE)
    if not path:
        return None
    try:
        return Path(path).read_text().rstrip("\n")
    except (OSError, UnicodeError) as error:
        raise KairosError(f"${PASSPHRASE_FILE}: {path}: {error}") from None


def _asked(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise KairosError(f"a passphrase is needed and nobody can be asked; name a file in ${PASSPHRASE_FILE}")
    return getpass.getpass(prompt)


def _key(passphrase: str, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << log2_n, r=8, p=1).derive(passphrase.encode())


def _bound_to(name: str) -> bytes:
    return f"kairos/1 sealed seed {name}".encode()
