"""The pure core under test: no I/O, virtual time."""

from __future__ import annotations

import pytest

from kairos.crypto.suites import KR1, Suite
from toy_provider import ToyProvider


@pytest.fixture
def provider() -> ToyProvider:
    return ToyProvider()


@pytest.fixture
def suite() -> Suite:
    return KR1
