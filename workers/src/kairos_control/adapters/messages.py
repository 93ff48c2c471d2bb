"""Between the runtime's Request and Response and our Call and Reply."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from workers import Response

from ..http import Call, Reply


async def call_of(request: Any) -> Call:
    parts = urlsplit(request.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    body = b"" if request.method in ("GET", "HEAD") else bytes(await request.bytes())
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Call(request.method, target, headers, body)


def response_of(reply: Reply) -> Response:
    headers = dict(reply.headers)
    if reply.content_type:
        headers["content-type"] = reply.content_type
    return Response(reply.body or None, status=reply.status, headers=headers)
