"""The daemon's local socket: verbs, errors, hostile lines."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.errors import BadMessage, Refused
from kairos_node.local_api import LINE_MAX, LocalServer, ask, parse_request_untrusted


async def _status(fields: dict[str, Any]) -> Any:
    return {"node": "ep-a", "asked": fields}


async def _refuse(_fields: dict[str, Any]) -> Any:
    raise Refused("no-tunnel", "there is no tunnel")


async def _break(_fields: dict[str, Any]) -> Any:
    raise ZeroDivisionError


def served(path: Path, client: Callable[[], Any]) -> Any:
    """Runs `client` in a thread against a server on `path`."""

    async def serve() -> Any:
        async with LocalServer(path, {"status": _status, "refuse": _refuse, "break": _break}):
            return await asyncio.wait_for(asyncio.to_thread(client), 60)

    return asyncio.run(serve())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def test_a_verb_is_answered(path: Path) -> None:
    def client() -> Any:
        assert path.stat().st_mode & 0o777 == 0o600
        return ask(path, "status", peer="x")

    assert served(path, client) == {"node": "ep-a", "asked": {"peer": "x"}}
    assert not path.exists()


@pytest.mark.parametrize(
    ("verb", "code"), [("refuse", "no-tunnel"), ("nonsense", "unknown-verb"), ("break", "internal")]
)
def test_a_refusal_keeps_its_code(path: Path, verb: str, code: str) -> None:
    def client() -> str:
        with pytest.raises(Refused) as refusal:
            ask(path, verb)
        return refusal.value.code

    assert served(path, client) == code


def test_a_dead_daemons_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Refused) as refusal:
        ask(path, "status")
    assert refusal.value.code == "not-running"
    assert served(path, lambda: ask(path, "status"))["node"] == "ep-a"


def test_without_a_daemon_it_says_so(path: Path) -> None:
    with pytest.raises(Refused, match="start it first"):
        ask(path, "status")


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b'{"verb": 1}\n', b"\xff\n", b"{" * 5000 + b"\n"])
def test_a_senseless_line_is_answered_and_the_next_one_too(path: Path, line: bytes) -> None:
    def client() -> list[bytes]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(line + b'{"verb":"status"}\n')
            with connection.makefile("rb") as answers:
                return [answers.readline(), answers.readline()]

    first, second = served(path, client)
    assert b'"error"' in first
    assert b'"node"' in second


def test_a_line_without_end_is_cut_off(path: Path) -> None:
    def client() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            try:
                connection.sendall(b"x" * (4 * LINE_MAX))
                return connection.recv(1)
            except (BrokenPipeError, ConnectionResetError):
                return b""

    assert served(path, client) == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_bad_message(line: bytes) -> None:
    with contextlib.suppress(BadMessage):
        assert isinstance(parse_request_untrusted(line)["verb"], str)
