"""A test rig: a server in the fabric's place that answers every request, also for a WebSocket, with something that makes no sense."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ANSWERS = itertools.cycle(
    (
        (200, b"{", "application/json"),
        (201, b'{"session": 7, "token": null}', "application/json"),
        (200, b"\x00\xff" * 500, "application/octet-stream"),
        (101, b"", ""),
        (500, b"<html>", "text/html"),
        (403, b'{"type": "urn:kairos:problem:nonsense"}', "application/problem+json"),
        (204, b"", ""),
    )
)


class _Nonsense(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        status, body, kind = next(_ANSWERS)
        self.send_response(status)
        if kind:
            self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def talking_nonsense(host: str, port: int) -> Iterator[None]:
    server = ThreadingHTTPServer((host, port), _Nonsense)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
