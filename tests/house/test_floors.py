"""No import cycles anywhere, and the floors of the control plane: http over services over store, SQL in the store alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from .test_imports import HOUSES

CONTROL = HOUSES["kairos_control"]
# What each floor of the control plane may import of the package; `ports` and `problems` are open to all.
MAY_IMPORT = {
    "store": {"store"},
    "services": {"services", "store"},
    "http": {"http", "services", "store", "tenant", "fabric"},
}
SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|DROP|PRAGMA)\b.*\s", re.DOTALL)


def modules() -> dict[str, Path]:
    """All modules of the product by dotted name."""
    found = {}
    for house, folder in HOUSES.items():
        for path in folder.rglob("*.py"):
            parts = (house, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the product that this one imports, at any depth of it and for types too."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield from (each for each in (full if full in known else origin,) if each in known)


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {name: set(imports(name, path, known)) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_each_floor_of_the_control_plane_stands_on_those_below_it() -> None:
    known = modules()
    for floor, allowed in MAY_IMPORT.items():
        for path in sorted((CONTROL / floor).rglob("*.py")):
            name = next(each for each, at in known.items() if at == path)
            for other in imports(name, path, known):
                parts = other.split(".")
                if parts[0] == "kairos_control" and len(parts) > 1:
                    assert parts[1] in allowed | {"ports", "problems"}, f"{name} imports {other}"


def test_only_the_store_speaks_sql() -> None:
    for path in sorted(CONTROL.rglob("*.py")):
        if path.relative_to(CONTROL).parts[0] != "store":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not SQL.fullmatch(node.value), f"{path.relative_to(CONTROL)}:{node.lineno}: {node.value!r}"
