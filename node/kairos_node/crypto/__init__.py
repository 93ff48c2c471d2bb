"""Crypto providers of a node: ML-KEM and ML-DSA of one library behind `kairos.crypto.provider.Provider`."""

from __future__ import annotations

from kairos.crypto.provider import Provider
from kairos.errors import Refused

PROVIDERS = ("cryptography", "oqs")


def provider_named(name: str) -> Provider:
    """The provider of that name. Raises Refused when it is unknown or its library is not there."""
    if name == "cryptography":
        from kairos_node.crypto.pyca import PycaProvider

        return PycaProvider()
    if name == "oqs":
        from kairos_node.crypto.liboqs import LiboqsProvider

        return LiboqsProvider()
    raise Refused("unknown-provider", f"crypto provider {name!r} is not one of {', '.join(PROVIDERS)}")
