"""Each test of a rig runs on the C engine with both of its AEAD libraries, and on the twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine_rig import ENGINES, Rig, rig_on


@pytest.fixture(params=sorted(ENGINES))
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig_on(request.param) as made:
        yield made
