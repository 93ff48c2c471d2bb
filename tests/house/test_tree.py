"""The shape of the tree: names, and words that do not belong."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANGUAGES = (".py", ".c", ".h", ".mjs", ".sh", ".rego")


def tracked() -> list[Path]:
    listed = subprocess.run(("git", "ls-files"), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def code() -> list[Path]:
    return [path for path in tracked() if path.suffix in LANGUAGES]


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [path for path in code() if path.stem in drawers or drawers & set(path.parent.parts)]


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "HACK"])
def test_nothing_is_left_for_later(word: str) -> None:
    here = Path(__file__)
    assert not [path for path in code() if path != here and word in path.read_text()]


def test_a_test_pauses_only_between_two_looks_at_a_condition() -> None:
    """Never for a time that was guessed: `wait_for` is the one place."""
    for path in tracked():
        if path.suffix == ".py" and "tests" in path.parts:
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef) and function.name != "wait_for":
                    assert "time.sleep" not in [ast.unparse(node) for node in ast.walk(function)], (
                        f"{path}: {function.name}"
                    )
