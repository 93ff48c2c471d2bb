"""Converts the runtime's requests, responses and queue messages to and from those of `http` and `queues`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from workers import Response

from ..http.app import ReadBody
from ..http.call import Call, Reply
from ..problems import problem


def call_of(request: Any) -> tuple[Call, ReadBody]:
    """The call without its body, and the function that reads the body.

    The method is read from the JavaScript object, because the SDK's property raises for a method that it does not list.
    """
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {name.lower(): value for name, value in request.headers.items()}

    async def read(limit: int) -> bytes:
        """A client may send more than it declared, or never end: reading stops at the limit."""
        return await _read(request.js_object.body, limit)

    return Call(str(request.js_object.method).upper(), target, headers), read


async def _read(stream: Any, limit: int) -> bytes:
    if stream is None:
        return b""
    reader, read = stream.getReader(), bytearray()
    while not (chunk := await reader.read()).done:
        if len(read) + chunk.value.byteLength > limit:
            await reader.cancel()
            raise problem("body-too-large", "the body is longer than its Content-Length")
        read += chunk.value.to_bytes()
    return bytes(read)


def response_of(reply: Reply) -> Response:
    headers = dict(reply.headers)
    if reply.content_type:
        headers["content-type"] = reply.content_type
    return Response(reply.body or None, status=reply.status, headers=headers)


class QueueMessage:
    """queues.Message over a message of the runtime."""

    def __init__(self, message: Any) -> None:
        self._message = message

    @property
    def body(self) -> object:
        return self._message.body

    @property
    def attempts(self) -> int:
        return int(self._message.attempts)

    def ack(self) -> None:
        self._message.ack()

    def retry(self, delay_s: int) -> None:
        self._message.retry(delaySeconds=delay_s)
