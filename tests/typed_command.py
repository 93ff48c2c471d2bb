"""The command as a person types it, in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kairos_cli.main import main


class Kairos:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> str:
        status = main(words)
        said = self._capsys.readouterr()
        assert status == 0, said.err
        return said.out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def fails(self, *words: str) -> tuple[str, str]:
        """What it prints, and the one line that it fails with."""
        assert main(words) == 1
        said = self._capsys.readouterr()
        assert said.err.startswith("kairos: ")
        assert said.err.count("\n") == 1
        return said.out, said.err
