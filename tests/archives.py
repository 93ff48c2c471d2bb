"""Archives of this tree, unpacked with any Python from 3.11 on."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unpacking(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive, for extractall(). Members that lead out of the folder are refused where Python can (3.11.4)."""
    with tarfile.open(archive) as files:
        if refusing := getattr(tarfile, "data_filter", None):
            files.extraction_filter = refusing
        yield files
