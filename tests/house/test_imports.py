"""Who may import whom: the house's walls, read from the sources themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSES = {
    "kairos": ROOT / "kairos",
    "kairos_control": ROOT / "workers/src/kairos_control",
    "kairos_relay": ROOT / "workers/src/kairos_relay",
    "kairos_dataplane": ROOT / "dataplane/kairos_dataplane",
    "kairos_node": ROOT / "node/kairos_node",
    "kairos_agent": ROOT / "agent/kairos_agent",
    "kairos_gateway": ROOT / "gateway/kairos_gateway",
    "kairos_cli": ROOT / "cli/kairos_cli",
}
MAY_IMPORT = {
    "kairos": {"kairos"},
    "kairos_control": {"kairos", "kairos_control"},
    "kairos_relay": {"kairos", "kairos_relay"},
    "kairos_dataplane": {"kairos", "kairos_dataplane"},
    "kairos_node": {"kairos", "kairos_dataplane", "kairos_node"},
    "kairos_agent": {"kairos", "kairos_dataplane", "kairos_node", "kairos_agent"},
    "kairos_gateway": {"kairos", "kairos_dataplane", "kairos_node", "kairos_gateway"},
    "kairos_cli": set(HOUSES) - {"kairos_control", "kairos_relay"},
}
# The pure core: nothing with a clock, entropy, a socket, a file or a thread in it.
PURE = {
    "__future__",
    "abc",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "dataclasses",
    "datetime",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "re",
    "struct",
    "typing",
    "urllib",
}
PURE_LIBRARIES = {"msgspec"}
RUNTIME = {"js", "pyodide", "workers"}


def sources(house: str) -> list[Path]:
    return sorted(HOUSES[house].rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of all modules that a file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("house", HOUSES)
def test_a_house_imports_only_what_it_may(house: str) -> None:
    assert sources(house), f"{house} has no sources"
    for path in sources(house):
        strangers = {name for name in imported(path) if name in HOUSES} - MAY_IMPORT[house]
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


def test_the_core_imports_nothing_that_does_io() -> None:
    for path in sources("kairos"):
        impure = set(imported(path)) - PURE - PURE_LIBRARIES - {"kairos"}
        assert not impure, f"{path.relative_to(ROOT)} imports {impure}"


def test_only_adapters_and_objects_know_the_runtime() -> None:
    for path in sources("kairos_control"):
        place = path.relative_to(HOUSES["kairos_control"]).parts[0]
        known = RUNTIME & set(imported(path))
        assert not known or place in {"adapters", "objects"}, f"{path.relative_to(ROOT)} imports {known}"


def test_the_command_line_imports_its_verbs_lazily() -> None:
    cli = HOUSES["kairos_cli"]
    at_start = [cli / "main.py", cli / "output.py", *(cli / "registry").glob("*.py")]
    heavy = {"aiohttp", "asyncio", "cryptography", "pyroute2", "wasmtime", "kairos_node", "kairos_agent"}
    for path in at_start:
        assert not heavy & set(imported(path)), path.name


def test_everything_else_comes_from_the_standard_library_or_a_declared_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {line.split("[")[0].split("=")[0].split(">")[0].strip().lower() for line in lines}
    names = {"OpenSSL": "pyopenssl", "dns": "dnspython", "oqs": "liboqs-python"}
    for house in HOUSES:
        for path in sources(house):
            for name in set(imported(path)) - set(sys.stdlib_module_names) - set(HOUSES) - RUNTIME:
                assert names.get(name, name).lower() in declared, f"{path.relative_to(ROOT)} imports {name}"
