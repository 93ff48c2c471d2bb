"""How much a test does: what shows a fault on each change, or with `./dev nightly` what takes long to show one."""

from __future__ import annotations

import os

NIGHTLY = bool(os.environ.get("KAIROS_NIGHTLY"))


def effort(usual: int, nightly: int) -> int:
    """The number of nodes, rounds or examples."""
    return nightly if NIGHTLY else usual
