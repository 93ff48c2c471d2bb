"""The one trap of Rego that denies nothing: `not startswith(input.app.path, "/usr")` is undefined, not true, when the input has
no app, and so the rule around it never fires. Only `not input.x` and `not input.x == y` are true then."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

_SAFE = "equal"


def traps(module: dict[str, Any]) -> Iterator[str]:
    """`line: expression` of each negated call that reads the input. module: what `opa parse` prints, with locations."""
    for expression in _expressions(module):
        terms = expression.get("terms")
        if not expression.get("negated") or not isinstance(terms, list):
            continue
        operator, arguments = terms[0]["value"][0]["value"], terms[1:]
        if _reads_input(arguments) and (operator != _SAFE or _calls(arguments)):
            place = expression["location"]
            yield f"{place['row']}: {base64.b64decode(place['text']).decode()}"


def _expressions(node: Any) -> Iterator[dict[str, Any]]:
    """All of them, in bodies, comprehensions and `every`."""
    for each in _nodes(node):
        if "terms" in each:
            yield each


def _reads_input(node: Any) -> bool:
    return any(
        each.get("type") == "ref" and each["value"][0].get("value") == "input"
        for each in _nodes(node)
        if isinstance(each.get("value"), list)
    )


def _calls(node: Any) -> bool:
    return any(each.get("type") == "call" for each in _nodes(node))


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _nodes(each)
