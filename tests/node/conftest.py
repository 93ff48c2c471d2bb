"""The node's parts under test."""

from __future__ import annotations

import pytest

from issued import Authority
from kairos.crypto.provider import Provider
from kairos.crypto.suites import KR1
from kairos_node.crypto import provider_named


@pytest.fixture(scope="session")
def provider() -> Provider:
    return provider_named("cryptography")


@pytest.fixture(scope="session")
def authority(provider: Provider) -> Authority:
    return Authority(provider, KR1)
