"""Posture checks of the operator's own: a command of the configuration file, run as nobody, its answer a fact `check.NAME`.

A check that fails, answers in no known form or takes too long gives no fact: a grant or rule that requires it then fails. Nothing
that a check does ends the daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import msgspec

_log = logging.getLogger(__name__)
_NOBODY = 65_534
_END_S = 2.0  # from the kill to its end
_OUTPUT_MAX = 256  # bytes; a command that prints more gives no fact
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
Fact = bool | int | float | str


class Check(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """output: bool (exit status 0 is yes, 1 is no), or what it prints as number or text."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    command: Annotated[list[str], msgspec.Meta(min_length=1)]
    output: Literal["bool", "number", "text"] = "bool"
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=10)] = 3.0


def run_checks(checks: Sequence[Check]) -> dict[str, Fact]:
    """All at the same time; those that gave a fact."""
    if not checks:
        return {}
    with ThreadPoolExecutor(len(checks)) as pool:
        facts = list(pool.map(_contained, checks))
    return {f"check.{check.name}": fact for check, fact in zip(checks, facts, strict=True) if fact is not None}


def _contained(check: Check) -> Fact | None:
    try:
        return _fact(check)
    except Exception:
        _log.exception("posture check %s", check.name)
        return None


def _fact(check: Check) -> Fact | None:
    ended = _run(check.command, check.timeout_s)
    if ended is None:
        return None
    status, printed = ended
    if check.output == "bool":
        return {0: True, 1: False}.get(status)
    text = printed.decode(errors="replace").strip()
    if status != 0:
        return None
    return text if check.output == "text" else _number(text)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return None


def _run(command: Sequence[str], timeout_s: float) -> tuple[int, bytes] | None:
    """Exit status and what it printed; None when it cannot be run, is late or prints too much. It leaves nothing running."""
    nobody = _NOBODY if os.geteuid() == 0 else None  # an agent that is not root has nothing to take away
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_ENVIRONMENT,
            user=nobody,
            group=nobody,
            extra_groups=None if nobody is None else [],
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        printed = _read(process, time.monotonic() + timeout_s)
    finally:
        _end(process, nobody)
    return None if printed is None else (process.returncode, printed)


def _end(process: subprocess.Popen[bytes], user: int | None) -> None:
    """Ends the group: what it started in the background too."""
    assert process.stdout is not None
    process.stdout.close()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:  # a service without CAP_KILL: whose process it is may end it
        kill = ("/bin/sh", "-c", f"kill -KILL -{process.pid}")
        subprocess.run(kill, user=user, group=user, extra_groups=[], stderr=subprocess.DEVNULL, check=False)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        _log.error("a posture check does not end: process %d", process.pid)


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """All that it prints, once it has ended; None: it is late, or it is too much."""
    assert process.stdout is not None
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(process.stdout.fileno(), _OUTPUT_MAX + 1)
            printed += data
            if len(printed) > _OUTPUT_MAX:
                return None
            if not data:
                return printed if _ended(process, deadline) else None
    return None


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """A command may close its output and go on."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True
