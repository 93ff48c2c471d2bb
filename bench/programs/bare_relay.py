"""The least that a relay in a Python Worker can do, as the floor for the product's: it reads the header, checks the owner and
hands the buffer on. No tokens, no windows, no second endpoint.
"""

from __future__ import annotations

from typing import Any

import js
from pyodide.ffi import to_js

from kairos.api.relay import Open, Opened, encode
from kairos.wire.frame import HEADER, FrameType
from kairos.wire.frame import encode as frame
from workers import DurableObject, Response, WorkerEntrypoint

_CHANNEL = 7


class Default(WorkerEntrypoint):  # type: ignore[misc]
    async def fetch(self, request: Any) -> Any:
        return await self.env.RELAY.getByName("bare").fetch(request)


class Relay(DurableObject):  # type: ignore[misc]
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self._sends: list[Any] = [None, None]  # to the endpoint, to the gateway

    async def fetch(self, request: Any) -> Any:
        """The gateway comes first."""
        client, server = js.WebSocketPair.new().object_values()
        self.ctx.acceptWebSocket(server)
        server.side = int(request.url.endswith("/gateway"))
        self._sends[server.side] = server.send
        if not server.side:
            server.send(to_js(frame(FrameType.OPENED, _CHANNEL, encode(Opened(_CHANNEL, "bare")))))
            self._sends[1](to_js(frame(FrameType.OPEN, _CHANNEL, encode(Open("bare", "bare", "bare", 0)))))
        return Response(None, status=101, web_socket=client)

    def webSocketMessage(self, socket: Any, message: Any) -> None:
        _, _, _, channel = HEADER.unpack_from(message.to_bytes())
        if channel == _CHANNEL:
            self._sends[1 - socket.side](message)

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        socket.close(1000, reason)
