"""What the native Python runtime asks of every Durable Object, read from the sources: it cannot run here."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

WORKERS = Path(__file__).parents[2] / "workers/src"
# The runtime calls each of these by name, whether or not the class has it, and with all of these arguments.
EVENTS = {
    "alarm": ["self", "info"],
    "webSocketMessage": ["self", "socket", "message"],
    "webSocketClose": ["self", "socket", "code", "reason", "was_clean"],
    "webSocketError": ["self", "socket", "error"],
}


def durable_objects() -> list[ast.ClassDef]:
    return [
        node
        for path in sorted(WORKERS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "DurableObject" for base in node.bases)
    ]


def test_there_are_durable_objects() -> None:
    assert {each.name for each in durable_objects()} == {"EventShard", "Relay", "Tenant"}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_a_handler_that_takes_all_its_arguments(event: str) -> None:
    for each in durable_objects():
        handlers = [
            node
            for node in each.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == event
        ]
        assert handlers, f"{each.name} has no {event}"
        assert [arg.arg for arg in handlers[0].args.args] == EVENTS[event], f"{each.name}.{event}"


def test_the_handler_of_a_relayed_frame_has_no_signature_to_bind() -> None:
    """The runtime asks `inspect.signature` for it at each call, and passes the arguments as they come if there is none."""

    def handler(self: object, socket: object, message: object) -> None: ...

    handler.__signature__ = NotImplemented  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        inspect.signature(handler)
    relay = next(each for each in durable_objects() if each.name == "Relay")
    assert "webSocketMessage.__signature__ = NotImplemented" in map(ast.unparse, relay.body)


def test_no_task_of_python_is_given_to_the_runtime() -> None:
    """It arrives as a borrowed proxy that ends with the call; kairos_relay.background gives a promise."""
    for path in WORKERS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".waitUntil"):
                assert path.name == "background.py", f"{path} calls waitUntil itself"
