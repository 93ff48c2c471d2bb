"""The node's parts under test. This process speaks suite KR1: one process, one TLS group."""

from __future__ import annotations

import pytest

from kairos.crypto.provider import Provider
from kairos.crypto.suites import KR1
from kairos_node.openssl_groups import fix_group

fix_group(KR1)

from issued import Authority  # noqa: E402
from kairos_node.crypto import provider_named  # noqa: E402


@pytest.fixture(scope="session")
def provider() -> Provider:
    return provider_named("cryptography")


@pytest.fixture(scope="session")
def authority(provider: Provider) -> Authority:
    return Authority(provider, KR1)
