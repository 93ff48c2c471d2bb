"""A file system that a test can fill."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 64 * 1024  # bytes


@contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """At this path, for as long as the context lasts. Needs root."""
    at.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", at), check=True)
    try:
        yield at
    finally:
        subprocess.run(("umount", at), check=True)


def fill(disk: Path) -> Path:
    """Takes all that is free, in a file that may be removed."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            return ballast
    return ballast
