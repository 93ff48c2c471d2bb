"""HTTP CONNECT, the proxy's side. Nothing else of HTTP: a request to fetch something is refused."""

from __future__ import annotations

import base64
import binascii

from kairos.errors import BadMessage
from kairos_agent.proxy.negotiation import Negotiation, Outcome, Target, host_untrusted

HEAD_MAX = 8192
_END = b"\r\n\r\n"


class HttpConnect(Negotiation):
    def receive_untrusted(self, data: bytes) -> bytes:
        self._buffer += data
        if not self._buffer[:1].isalpha():  # SOCKS4, TLS: it would wait for our answer and we for its end
            raise self._bad(_response(400, "Bad request"), "neither SOCKS5 nor HTTP")
        head, end, rest = self._buffer.partition(_END)
        if len(head) > HEAD_MAX:
            raise self._bad(_response(431, "Request header too large"), "a head without an end")
        if end:
            self.target = self._target_untrusted(head)
            self._buffer = rest
        return b""

    def answer(self, outcome: Outcome) -> bytes:
        if outcome is Outcome.OPENED:  # RFC 9110 §9.3.6: with no content and no length
            return f"HTTP/1.1 200 {outcome.text}\r\n\r\n".encode()
        return _response(outcome.http, outcome.text)

    def _target_untrusted(self, head: bytes) -> Target:
        line, *fields = head.split(b"\r\n")
        words = line.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            raise self._bad(_response(400, "Bad request"), "not HTTP/1")
        if words[0] != b"CONNECT":
            raise self._bad(_response(405, "CONNECT only", "Allow: CONNECT\r\n"), "a method other than CONNECT")
        host, _, port = words[1].rpartition(b":")
        try:
            if not port.isdigit() or not 0 < int(port) < 65536:
                raise BadMessage("no port")
            return Target(host_untrusted(host), int(port), _user_untrusted(fields))
        except (BadMessage, ValueError) as error:
            raise self._bad(_response(400, "Bad request"), str(error)) from None


def _user_untrusted(fields: list[bytes]) -> str:
    """Of Proxy-Authorization: Basic; empty without one. Raises BadMessage."""
    for field in fields:
        name, _, value = field.partition(b":")
        if name.strip().lower() != b"proxy-authorization":
            continue
        scheme, _, credentials = value.strip().partition(b" ")
        if scheme.lower() != b"basic":
            raise BadMessage("an authorization other than Basic")
        try:
            return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            raise BadMessage("no user name") from None
    return ""


def _response(status: int, text: str, fields: str = "") -> bytes:
    body = f"kairos proxy: {text}\n"
    head = f"HTTP/1.1 {status} {text}\r\n{fields}Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()
