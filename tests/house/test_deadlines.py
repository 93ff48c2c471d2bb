"""All that a daemon gives the data plane has a deadline, so that a daemon that hangs fails closed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What takes a deadline as its last argument, and how many arguments it has with it.
ARGUMENTS = {"SessionKey": 6, "add_lease": 3, "verdict": 5}


def calls() -> Iterator[tuple[str, str, int]]:
    """Where, what, and with how many arguments."""
    for folder in ("node", "agent", "gateway"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                if name == "SessionKey" or name.endswith(("dataplane.add_lease", "dataplane.verdict")):
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield where, name.rpartition(".")[2], len(node.args) + len(node.keywords)


def test_what_the_data_plane_is_given_has_a_deadline() -> None:
    found = list(calls())
    assert {what for _, what, _ in found} == set(ARGUMENTS)
    assert [where for where, what, count in found if count != ARGUMENTS[what]] == []
