"""Raw ends at a real relay, which may send it anything (tests/in_worker)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from socket import SHUT_RDWR
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest

from fabric_host import TENANT, client_of
from kairos.api.relay import parse_close_untrusted, parse_open_untrusted, parse_opened_untrusted
from kairos.api.session import SessionGrant, SessionRequest
from kairos.wire.frame import HEADER, FrameType, encode, parse_frame_header_untrusted
from kairos_node.state import Identity

WAIT_S = 10.0


class Socket:
    """A raw end at the relay."""

    def __init__(self, http: aiohttp.ClientSession, grant: SessionGrant) -> None:
        self.grant = grant
        self.channel = 0
        self._http = http
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def open(self) -> Self:
        address, token = self.grant.gateways[0], self.grant.token
        self._socket = await self._http.ws_connect(
            address.relay_url, headers={"Authorization": f"Bearer {token}"}, max_msg_size=0
        )
        return self

    async def send(self, kind: FrameType, payload: bytes = b"", channel: int | None = None, flags: int = 0) -> None:
        await self.send_raw(encode(kind, self.channel if channel is None else channel, payload, flags))

    async def send_raw(self, message: bytes | str) -> None:
        assert self._socket is not None
        await (self._socket.send_str(message) if isinstance(message, str) else self._socket.send_bytes(message))

    async def frame(self) -> tuple[FrameType, int, bytes]:
        """The next frame: type, channel, payload."""
        assert self._socket is not None
        message = await self._socket.receive(WAIT_S)
        assert message.type is aiohttp.WSMsgType.BINARY, message
        header = parse_frame_header_untrusted(message.data, len(message.data))
        return header.type, header.channel, message.data[HEADER.size :]

    async def closed(self) -> str:
        """The code of the CLOSE of our own channel, after which the socket ends. A gateway hears of others first."""
        kind, channel, payload = await self.frame()
        while channel != self.channel:
            kind, channel, payload = await self.frame()
        assert kind is FrameType.CLOSE
        assert self._socket is not None
        message = await self._socket.receive(WAIT_S)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), message
        return parse_close_untrusted(payload).code

    async def closed_after_others(self) -> str:
        """The same, when frames of other types may come first."""
        while (frame := await self.frame())[0] is not FrameType.CLOSE or frame[1] != self.channel:
            pass
        return parse_close_untrusted(frame[2]).code

    async def hang_up(self, code: int = 1000) -> int | None:
        """Closes the socket. Returns the code that the relay answered with."""
        assert self._socket is not None
        await self._socket.close(code=code)
        return self._socket.close_code

    def break_off(self) -> None:
        """The connection ends without a close, as with a host that lost its network."""
        assert self._socket is not None
        self._socket.get_extra_info("socket").shutdown(SHUT_RDWR)


class Ends:
    """A connected gateway, and as many endpoint sockets as are asked for."""

    def __init__(self, gateway: Identity, endpoint: Identity) -> None:
        self._identities = gateway, endpoint
        self._http = aiohttp.ClientSession()
        self._sockets: list[Socket] = []

    async def __aenter__(self) -> Self:
        self.gateway = await self.connect_gateway()
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for socket in self._sockets:
            await socket.hang_up()
        await self._http.close()

    async def grant(self, identity: Identity, **request: Any) -> SessionGrant:
        async with client_of(identity) as client:
            return await client.open_session(SessionRequest(**request))

    async def connect_gateway(self) -> Socket:
        return await self._open(await self.grant(self._identities[0]))

    async def _open(self, grant: SessionGrant) -> Socket:
        socket = await Socket(self._http, grant).open()
        self._sockets.append(socket)
        return socket

    async def endpoint(self) -> Socket:
        """Connected, with its channel; the gateway has been told."""
        socket = await self._open(await self.grant(self._identities[1]))
        kind, socket.channel, payload = await socket.frame()
        assert kind is FrameType.OPENED
        assert parse_opened_untrusted(payload).channel == socket.channel
        kind, channel, payload = await self.gateway.frame()
        assert (kind, channel) == (FrameType.OPEN, socket.channel)
        opened = parse_open_untrusted(payload)
        assert (opened.node, opened.tenant) == (self._identities[1].node, TENANT)
        assert opened.session == socket.grant.session
        return socket

    async def refused(self, url: str, token: str) -> int:
        """The HTTP status that the upgrade was answered with."""
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await self._http.ws_connect(url, headers={"Authorization": f"Bearer {token}"})
        return refusal.value.status


Scenario = Callable[[Ends], Awaitable[None]]
