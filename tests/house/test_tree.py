"""The shape of the tree: names, sizes, words that do not belong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = 450
LANGUAGES = (".py", ".c", ".h", ".mjs", ".sh", ".rego")


def tracked() -> list[Path]:
    listed = subprocess.run(("git", "ls-files"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def code() -> list[Path]:
    return [path for path in tracked() if path.suffix in LANGUAGES]


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [path for path in code() if path.stem in drawers or drawers & set(path.parent.parts)]


def test_a_file_is_read_in_one_go() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in code()
        if (count := len(path.read_text().splitlines())) > LINES_MAX
    }
    assert not long


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "HACK"])
def test_nothing_is_left_for_later(word: str) -> None:
    here = Path(__file__)
    assert not [path for path in code() if path != here and word in path.read_text()]


def test_no_test_sleeps() -> None:
    sleeping = [
        path
        for path in tracked()
        if path.suffix == ".py" and "tests" in path.parts and "time.sleep(" in path.read_text()
    ]
    assert not [path for path in sleeping if path != Path(__file__)]
