"""Crypto providers of a node: ML-KEM and ML-DSA of one library behind `kairos.crypto.provider.Provider`."""

from __future__ import annotations

from kairos.crypto.provider import Provider
from kairos.errors import Refused
from kairos_node.crypto import self_test

PROVIDERS = ("cryptography", "oqs")
_tested: set[str] = set()  # a process tests each library once


def provider_named(name: str) -> Provider:
    """The provider of that name, after its self-test.

    Raises Refused when it is unknown, its library is not there, or the self-test fails."""
    provider = _provider(name)
    if name not in _tested:
        self_test.check(provider)
        _tested.add(name)
    return provider


def _provider(name: str) -> Provider:
    if name == "cryptography":
        from kairos_node.crypto.pyca import PycaProvider

        return PycaProvider()
    if name == "oqs":
        from kairos_node.crypto.liboqs import LiboqsProvider

        return LiboqsProvider()
    raise Refused("unknown-provider", f"crypto provider {name!r} is not one of {', '.join(PROVIDERS)}")
