"""From a state directory to a running daemon, and every failure to one clear line."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from kairos.api.enrollment import Role
from kairos.crypto.suites import suite_named
from kairos.errors import UNREADABLE, KairosError, Refused
from kairos_dataplane import Dataplane, load
from kairos_node.openssl_groups import fix_group
from kairos_node.private_memory import keep_memory_private
from kairos_node.state import NodeState


class Config(Protocol):
    """What both daemons' configurations have."""

    @property
    def log(self) -> str: ...
    @property
    def dataplane(self) -> str: ...
    @property
    def aead(self) -> str: ...


_C = TypeVar("_C")
_D = TypeVar("_D", bound=Config)
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_NAMES: dict[Role, str] = {"endpoint": "agent", "gateway": "gateway"}


def run(
    config_path: Path | None,
    kind: type[_D],
    directory: Path,
    role: Role,
    serve: Callable[[NodeState, _D, Dataplane], Coroutine[Any, Any, None]],
) -> int:
    """Runs a daemon until SIGTERM, SIGINT or its `down`; the exit status. serve: called once OpenSSL may be loaded."""
    try:
        keep_memory_private()
        config = load_config(config_path, kind)
        state = prepare(directory, role)
        log_to_stderr(config.log)
        with state.locked():
            dataplane = load(config.dataplane, config.aead)
            try:
                asyncio.run(serve(state, config, dataplane))
            finally:
                dataplane.close()  # when nothing on the loop can call it any more
    except (KairosError, RuntimeError, OSError) as error:
        return say(error)
    return 0


def load_config(path: Path | None, kind: type[_C]) -> _C:
    """The TOML file as a typed record, or all defaults. Raises Refused."""
    if path is None:
        return kind()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise Refused("bad-config", f"{path}: {error.strerror}") from None
    except UNREADABLE as error:
        raise Refused("bad-config", f"{path}: {error}; docs/config.md lists the keys") from None


def prepare(directory: Path, role: Role) -> NodeState:
    """Checks that this node has enrolled in that role, and fixes the TLS group of its suite before OpenSSL loads."""
    state = NodeState(directory)
    join, name = state.join, _NAMES[role]
    not_enrolled = Refused("not-enrolled", f"this node has not enrolled ({directory}); run: kairos {name} enroll TOKEN")
    if join is None:
        raise not_enrolled
    if join.role != role:
        other = _NAMES[join.role]
        raise Refused("wrong-role", f"{directory} is the state of a {other}; run: kairos {other} run")
    fix_group(suite_named(join.suite))
    keys = state.keys  # to unseal them takes OpenSSL
    if keys is None or not keys.certificate:
        raise not_enrolled
    return state


def log_to_stderr(level: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=_FORMAT)
    logging.getLogger("picows").setLevel(logging.WARNING)


def say(error: Exception) -> int:
    """One line for a person; the exit status of a daemon that could not go on."""
    print(f"kairos: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT end the daemon the clean way."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
