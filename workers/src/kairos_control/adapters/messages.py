"""Between the runtime's Request and Response and our Call and Reply."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from kairos.api.problem import ProblemError
from workers import Response

from ..app import body_max
from ..http import Call, Reply, problem_reply
from ..problems import problem


async def call_of(request: Any) -> Call:
    """Raises a ProblemError for a body that its route does not take, before it is read into memory."""
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {name.lower(): value for name, value in request.headers.items()}
    _check_length(request.method, headers.get("content-length", ""), body_max(request.method, parts.path))
    body = b"" if request.method in ("GET", "HEAD") else bytes(await request.bytes())
    return Call(request.method, target, headers, body)


def _check_length(method: str, length: str, limit: int) -> None:
    if method in ("POST", "PUT", "PATCH") and not length.isdecimal():
        raise problem("length-required", "send the body with a Content-Length, not in chunks")
    if length.isdecimal() and int(length) > limit:
        raise problem("body-too-large", f"at most {limit} bytes here")


def refusal_of(request: Any, error: ProblemError) -> Response:
    return response_of(problem_reply(error, urlsplit(request.url).path))


def response_of(reply: Reply) -> Response:
    headers = dict(reply.headers)
    if reply.content_type:
        headers["content-type"] = reply.content_type
    return Response(reply.body or None, status=reply.status, headers=headers)
