"""`kairos agent ...` against a local socket that answers like a daemon."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos_cli.main import main
from kairos_node.local_api import LocalServer
from kairos_node.state import NodeState

STATUS: dict[str, Any] = {
    "node": "ep-a",
    "suite": "KR1",
    "tunnels": [{"peer": "gw-a", "path": "relay", "vnis": ["office", "lab"], "steps": [{"step": "T1", "ms": 1.0}]}],
    "counters": {"tx_packets": 7, "drop_auth": 0},
}
FLOW = {"flow": "tcp 10.7.0.2:1 > 10.7.0.3:80", "verdict": "deny", "rule": "grants:none", "packets": [1, 0]}


class Daemon:
    """asked: every request that came, with its verb."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._state = NodeState(directory)
        self._state.create()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        answers: dict[str, Any] = {"status": STATUS, "flows": [FLOW], "path": True, "down": True}

        def handler(verb: str) -> Any:
            async def handle(fields: dict[str, Any]) -> Any:
                self.asked.append((verb, fields))
                return answers[verb]

            return handle

        async with LocalServer(self._state.socket, {verb: handler(verb) for verb in answers}):
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Daemon:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> str:
    assert main([*arguments, "--state", str(tmp_path)]) == 0
    return capsys.readouterr().out


def test_status_for_people_and_programs(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, tmp_path, "agent", "status", "--json")) == STATUS
    shown = said(capsys, tmp_path, "agent", "status")
    assert "gw-a  relay  office, lab" in shown
    assert "tx_packets  7" in shown
    assert "drop_auth" not in shown


def test_flows_name_their_rule(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, tmp_path, "agent", "flows", "--json")) == [FLOW]
    assert "deny     grants:none" in said(capsys, tmp_path, "agent", "flows")


def test_what_is_asked_reaches_the_daemon(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, tmp_path, "agent", "path", "relay")
    said(capsys, tmp_path, "agent", "down")
    assert daemon.asked == [("path", {"mode": "relay"}), ("down", {})]


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("agent", "status"), "kairos agent run"),
        (("gateway", "down"), "kairos gateway run"),
        (("agent", "enroll", "nonsense"), "ask your operator for a new one"),
        (("agent", "enroll", "kairos-join-1.AAAA"), "copy it again"),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], advice: str
) -> None:
    assert main([*arguments, "--state", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert advice in error
    assert error.count("\n") == 1
