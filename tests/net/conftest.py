"""One overlay for the whole suite; each test starts the daemons it needs and leaves none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlay import Overlay, running_overlay


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    with running_overlay(tmp_path_factory.mktemp("overlay")) as overlay:
        yield overlay


@pytest.fixture
def overlay(whole: Overlay) -> Iterator[Overlay]:
    yield whole
    whole.down()
