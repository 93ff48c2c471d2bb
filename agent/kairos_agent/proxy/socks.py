"""SOCKS5, the server's side: CONNECT alone (RFC 1928), user name for the VNI (RFC 1929)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from kairos.errors import BadMessage
from kairos_agent.proxy.negotiation import Address, Negotiation, Outcome, Target, host_untrusted, unmapped

VERSION = 5
_PASSWORD_VERSION = 1
_ANYBODY, _USER_NAME, _NO_METHOD = 0x00, 0x02, 0xFF
_CONNECT = 0x01
_IPV4, _NAME, _IPV6 = 0x01, 0x03, 0x04
_NOT_SUPPORTED, _NO_SUCH_ADDRESS = 0x07, 0x08
_NOWHERE = bytes((_IPV4, 0, 0, 0, 0, 0, 0))  # where we bound: nothing that concerns the client


class Socks5(Negotiation):
    """Greeting, user name if the client has one, request. All of it may come in one piece or byte by byte."""

    def __init__(self) -> None:
        super().__init__()
        self._vni = ""
        self._step: Callable[[], bytes | None] = self._greeting

    def receive_untrusted(self, data: bytes) -> bytes:
        self._buffer += data
        said = b""
        while self.target is None and (reply := self._step()) is not None:
            said += reply
        return said

    def answer(self, outcome: Outcome) -> bytes:
        return _reply(outcome.socks)

    def _greeting(self) -> bytes | None:
        """What follows is None while the message is not whole."""
        if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            return None
        methods = self._take(2 + self._buffer[1])[2:]
        if _USER_NAME in methods:
            self._step = self._user_name
            return bytes((VERSION, _USER_NAME))
        if _ANYBODY not in methods:
            raise self._bad(bytes((VERSION, _NO_METHOD)), "the client wants to log in, in a way we do not have")
        self._step = self._request
        return bytes((VERSION, _ANYBODY))

    def _user_name(self) -> bytes | None:
        if len(self._buffer) < 2 or len(self._buffer) < 3 + self._buffer[1]:
            return None
        name_end = 2 + self._buffer[1]
        end = name_end + 1 + self._buffer[name_end]
        if len(self._buffer) < end:
            return None
        message = self._take(end)
        try:
            self._vni = message[2:name_end].decode()
        except UnicodeDecodeError:
            self._vni = "?"  # no VNI is called that
        if message[0] != _PASSWORD_VERSION:
            raise self._bad(bytes((_PASSWORD_VERSION, 1)), "not a user name as RFC 1929 has it")
        self._step = self._request
        return bytes((_PASSWORD_VERSION, 0))

    def _request(self) -> bytes | None:
        if len(self._buffer) < 5:
            return None
        kind = self._buffer[3]
        size = {_IPV4: 4, _IPV6: 16, _NAME: 1 + self._buffer[4]}.get(kind)
        if self._buffer[0] != VERSION or size is None:
            raise self._bad(_reply(_NO_SUCH_ADDRESS), "an address of no known kind")
        if len(self._buffer) < 4 + size + 2:
            return None
        message = self._take(4 + size + 2)
        if message[1] != _CONNECT:
            raise self._bad(_reply(_NOT_SUPPORTED), "only CONNECT is served")
        try:
            host = _host_untrusted(kind, message[4:-2])
        except BadMessage as error:
            raise self._bad(_reply(_NO_SUCH_ADDRESS), str(error)) from None
        self.target = Target(host, int.from_bytes(message[-2:]), self._vni)
        return b""

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def _host_untrusted(kind: int, data: bytes) -> Address | str:
    if kind == _IPV4:
        return IPv4Address(data)
    return unmapped(IPv6Address(data)) if kind == _IPV6 else host_untrusted(data[1:])


def _reply(code: int) -> bytes:
    return bytes((VERSION, code, 0)) + _NOWHERE
