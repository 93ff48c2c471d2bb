"""What WebCrypto says of the signature vectors. Runs inside workerd only (tests/in_worker/test_signatures.py)."""

from __future__ import annotations

from kairos.crypto.suites import KR1, SUITES
from kairos.errors import Refused
from kairos_control.adapters.signatures import WebCryptoSignatures
from signature_vectors import signature_vectors


async def verdicts() -> list[tuple[str, bool | str]]:
    """Name and verdict of each vector, then what a context that is too long gets."""
    said: list[tuple[str, bool | str]] = []
    for suite in SUITES.values():
        signatures = WebCryptoSignatures(suite)
        for vector in signature_vectors(suite):
            valid = await signatures.verify(vector.public_key, vector.message, vector.signature, vector.context)
            said.append((vector.name, valid))
    try:
        await WebCryptoSignatures(KR1).verify(b"", b"", b"", b"c" * 256)
    except Refused as error:
        said.append((str(error), error.code))
    return said
