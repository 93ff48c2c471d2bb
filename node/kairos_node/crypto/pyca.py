"""Provider `cryptography`: ML-KEM and ML-DSA of the OpenSSL inside pyca/cryptography."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

from kairos.crypto.provider import require_context
from kairos.crypto.suites import SEED_BYTES, Suite
from kairos.errors import Refused

MlDsaPrivateKey = mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
MlKemPrivateKey = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey

_SIGN_PRIVATE: dict[str, type[MlDsaPrivateKey]] = {
    "ML-DSA-65": mldsa.MLDSA65PrivateKey,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey,
}
_SIGN_PUBLIC: dict[str, type[mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey]] = {
    "ML-DSA-65": mldsa.MLDSA65PublicKey,
    "ML-DSA-87": mldsa.MLDSA87PublicKey,
}
_KEM_PRIVATE: dict[str, type[MlKemPrivateKey]] = {
    "ML-KEM-768": mlkem.MLKEM768PrivateKey,
    "ML-KEM-1024": mlkem.MLKEM1024PrivateKey,
}
_KEM_PUBLIC: dict[str, type[mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey]] = {
    "ML-KEM-768": mlkem.MLKEM768PublicKey,
    "ML-KEM-1024": mlkem.MLKEM1024PublicKey,
}


def private_key(suite: Suite, seed: bytes) -> MlDsaPrivateKey:
    """The ML-DSA key of a 32-byte seed as the library's own object: certificates and TLS want it. Raises Refused."""
    if len(seed) != SEED_BYTES:
        raise Refused("bad-key", f"an ML-DSA seed is {SEED_BYTES} bytes, not {len(seed)}")
    return _SIGN_PRIVATE[suite.signature].from_seed_bytes(seed)


class PycaSigningKey:
    def __init__(self, suite: Suite, seed: bytes) -> None:
        self._key = private_key(suite, seed)
        self.public_key: bytes = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes, context: bytes) -> bytes:
        require_context(context)
        return self._key.sign(message, context)


class PycaDecapsulationKey:
    def __init__(self, key: MlKemPrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        try:
            return self._key.decapsulate(ciphertext)
        except ValueError as error:
            raise Refused("bad-key", f"decapsulation: {error}") from None


class PycaProvider:
    name = "cryptography"

    def signing_key(self, suite: Suite, seed: bytes) -> PycaSigningKey:
        return PycaSigningKey(suite, seed)

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        require_context(context)
        try:
            key = _SIGN_PUBLIC[suite.signature].from_public_bytes(public_key)
        except ValueError as error:
            raise Refused("bad-key", f"{suite.signature} public key: {error}") from None
        try:
            key.verify(signature, message, context)
        except InvalidSignature:
            return False
        return True

    def generate_kem_key(self, suite: Suite) -> PycaDecapsulationKey:
        return PycaDecapsulationKey(_KEM_PRIVATE[suite.kem].generate())

    def encapsulate(self, suite: Suite, public_key: bytes) -> tuple[bytes, bytes]:
        try:
            secret, ciphertext = _KEM_PUBLIC[suite.kem].from_public_bytes(public_key).encapsulate()
        except ValueError as error:
            raise Refused("bad-key", f"{suite.kem} public key: {error}") from None
        return ciphertext, secret
