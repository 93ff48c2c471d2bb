"""The daemon's local socket: a Unix socket, 0600, one JSON request and one JSON answer a line.

{"verb": "status"}                        -> {"result": ...}
{"verb": "path", "mode": "relay"}         -> {"error": {"code": "...", "text": "..."}}
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from kairos.errors import UNREADABLE, BadMessage, KairosError, Refused

LINE_MAX = 1 << 20
_WAIT_S = 15.0
_log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


class _Error(msgspec.Struct):
    code: str
    text: str


class _Answer(msgspec.Struct, omit_defaults=True):
    result: Any = None
    error: _Error | None = None


class LocalServer:
    """Serves `handlers` (verb -> coroutine function of the request's fields). The caller holds the state's lock, so a
    socket that is there is a dead daemon's."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._talking: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._talk, self._path, limit=LINE_MAX)
        finally:
            os.umask(before)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._talking):
            writer.close()
        await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talking.add(writer)
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line without end
            pass
        finally:
            self._talking.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> _Answer:
        try:
            request = parse_request_untrusted(line)
            verb = request.pop("verb")
            handler = self._handlers.get(verb)
            if handler is None:
                raise Refused("unknown-verb", f"the daemon knows no {verb!r}; it knows {', '.join(self._handlers)}")
            return _Answer(result=await handler(request))
        except Refused as error:
            return _Answer(error=_Error(error.code, str(error)))
        except (KairosError, ConnectionError) as error:
            return _Answer(error=_Error("failed", str(error)))
        except Exception:
            _log.exception("local request failed")
            return _Answer(error=_Error("internal", "the daemon failed on this request; its log says where"))


def parse_request_untrusted(line: bytes) -> dict[str, Any]:
    """A request with its `verb`. Raises BadMessage."""
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
    except UNREADABLE as error:
        raise BadMessage(f"local request: {error}") from None
    if not isinstance(request.get("verb"), str):
        raise BadMessage("local request: it names no verb")
    return request


def ask(path: Path, verb: str, **fields: Any) -> Any:
    """One request to the daemon behind `path`, from the command line. Raises Refused: not-running, or the daemon's word."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(_WAIT_S)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode({"verb": verb, **fields}) + b"\n")
            line = _line(connection)
        except TimeoutError:
            raise Refused("not-running", f"the daemon at {path} does not answer") from None
        except PermissionError:
            raise Refused("not-allowed", f"{path} is not yours; run this as the daemon's user") from None
        except OSError:
            raise Refused("not-running", f"no daemon answers at {path}; start it first") from None
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except UNREADABLE:
        raise Refused("not-running", f"the daemon at {path} ended before it answered") from None
    if answer.error is not None:
        raise Refused(answer.error.code, answer.error.text)
    return answer.result


def _line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = connection.recv(65_536)
        if not chunk:
            break
        line += chunk
    return bytes(line)
