"""Progress of a long verb: a line for each step, with its seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Steps:
    """Steps on `output`; a quiet one says nothing. A step is named before it begins, so that a person sees what
    takes the time."""

    def __init__(self, output: TextIO | None = None, quiet: bool = False) -> None:
        self._output = output or sys.stdout
        self._quiet = quiet

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        self._write(f"{what} ... ")
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self._write("failed\n")
            raise
        self._write(f"{time.monotonic() - started:.1f} s\n")

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._output.write(text)
            self._output.flush()


QUIET = Steps(quiet=True)
