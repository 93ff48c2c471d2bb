"""Whether rules may depend on the port that a connection comes from.

Most do not, and then a node need not ask again for the next connection from the same device to the same service. What is not
plainly a reference to something else counts as reading it.
"""

from __future__ import annotations

from typing import Any


def reads_source_port(node: Any) -> bool:
    """node: what `opa parse` prints of a module, or a part of it."""
    if isinstance(node, list):
        return any(map(reads_source_port, node))
    if not isinstance(node, dict):
        return False
    if node.get("type") == "ref" and _is_elsewhere(node["value"]):
        return reads_source_port(node["value"][1:])  # an index may read it
    return _is_input(node) or any(map(reads_source_port, node.values()))


def _is_elsewhere(path: list[dict[str, Any]]) -> bool:
    """`input.x` for any x but src, or `input.src.x` for any x but port."""
    if not _is_input(path[0]):
        return False
    names = [each["value"] if each["type"] == "string" else None for each in path[1:3]]
    if names[:1] == ["src"]:
        return names[1:] not in ([], [None], ["port"])
    return names[:1] not in ([], [None])


def _is_input(node: dict[str, Any]) -> bool:
    return node.get("type") == "var" and node.get("value") == "input"
