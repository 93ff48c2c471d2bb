"""ML-DSA over WebCrypto."""

from __future__ import annotations

from typing import Any

import js
from pyodide.ffi import to_js

from kairos.crypto.provider import require_context
from kairos.crypto.suites import Suite


class WebCryptoSignatures:
    """The port Signatures over WebCrypto (https://wicg.github.io/webcrypto-modern-algos/)."""

    def __init__(self, suite: Suite) -> None:
        self._algorithm = suite.signature
        self._key_bytes = suite.signature_public_key
        self._signature_bytes = suite.signature_bytes

    async def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        require_context(context)
        if len(public_key) != self._key_bytes or len(signature) != self._signature_bytes:
            return False
        subtle = js.crypto.subtle
        key = await subtle.importKey("raw-public", to_js(public_key), self._name(), False, to_js(["verify"]))
        return bool(await subtle.verify(self._parameters(context), key, to_js(signature), to_js(message)))

    async def sign(self, seed: bytes, message: bytes, context: bytes) -> bytes:
        require_context(context)
        subtle = js.crypto.subtle
        key = await subtle.importKey("raw-seed", to_js(seed), self._name(), False, to_js(["sign"]))
        signature = await subtle.sign(self._parameters(context), key, to_js(message))
        return bytes(signature.to_bytes())

    def _name(self) -> Any:
        return js.Object.fromEntries(to_js([["name", self._algorithm]]))

    def _parameters(self, context: bytes) -> Any:
        parameters = self._name()
        if context:
            parameters.context = to_js(context)
        return parameters
