"""The Relay Durable Object of one gateway (docs/design/0002-two-workers.md).

A gateway's socket has the tag `gateway`; an endpoint's has its channel number. Everything else that must outlive an eviction is in
the sockets' attachments, so the object may be forgotten while its sockets stay open. Frames pass as the buffer they came in.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import js
import msgspec
from pyodide.ffi import JsException, to_js

from kairos.api.problem import CONTENT_TYPE, Problem
from kairos.api.relay import Close, Open, Opened, Renewed, encode
from kairos.api.session import Cut, Introspected
from kairos.errors import BadMessage
from kairos.wire.frame import HEADER, PING_PAYLOAD_MAX, FrameType, parse_frame_header_untrusted
from kairos.wire.frame import encode as frame
from workers import DurableObject, Response

from .introspection import TokenRefused, introspect

GATEWAY = "gateway"
_FORWARDED = {FrameType.STREAM, FrameType.CREDIT, FrameType.DATAGRAMS, FrameType.CLOSE}
_NORMAL, _ENDED, _BAD = 1000, 4001, 4002
_TOKEN_MAX = 256


class Relay(DurableObject):  # type: ignore[misc]
    async def fetch(self, request: Any) -> Any:
        path = urlsplit(request.url).path
        if path.startswith("/internal/cut"):
            self._cut(msgspec.json.decode((await request.text()).encode(), type=Cut))
            return Response(None, status=204)
        gateway = path.rsplit("/", 1)[-1]
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            who = await self._introspect(token, gateway)
        except TokenRefused as error:
            return problem_response(error.problem)
        if who.role == "endpoint" and not self._gateway_socket():
            return problem_response(
                Problem(
                    "urn:kairos:problem:gateway-unavailable", "The gateway is not connected", 503, f"{gateway} is not at the relay",
                    retry_after_s=1,
                )
            )  # fmt: skip
        client, server = js.WebSocketPair.new().object_values()
        self._admit(server, who, gateway)
        await self._wake_by(who.expires_at)
        return Response(None, status=101, web_socket=client)

    # -- frames: plain functions, for a coroutine a frame would halve what passes ---------------------------------------

    def webSocketMessage(self, socket: Any, message: Any) -> None:
        if isinstance(message, str):
            self._expel(socket, "bad-message", "frames are binary")
            return
        head = js.Uint8Array.new(message, 0, min(HEADER.size, message.byteLength)).to_bytes()
        try:
            header = parse_frame_header_untrusted(head, message.byteLength)
        except BadMessage as error:
            self._expel(socket, "bad-message", str(error))
            return
        tag = str(self.ctx.getTags(socket)[0])
        if header.type not in _FORWARDED:
            self._own_frame(socket, header.type, message)
        elif tag == GATEWAY:
            for endpoint in self.ctx.getWebSockets(str(header.channel)):
                _send(endpoint, message)
                if header.type is FrameType.CLOSE:
                    endpoint.close(_ENDED, "closed by the gateway")
        elif tag != str(header.channel):
            self._expel(socket, "wrong-channel", f"channel {header.channel} is not yours")
        else:
            for gateway in self.ctx.getWebSockets(GATEWAY):
                _send(gateway, message)

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        self._gone(socket)
        socket.close(_NORMAL if code == 1005 else code, reason)

    def webSocketError(self, socket: Any, error: Any) -> None:
        self._gone(socket)

    async def alarm(self, info: Any = None) -> None:
        """T7 at the relay: a socket ends with its session, by this clock, whoever else is silent."""
        now = time.time()
        later = []
        for socket in self.ctx.getWebSockets():
            expires_at = int(socket.deserializeAttachment().expires_at)
            if expires_at <= now:
                self._expel(socket, "session-ended", "the session was not renewed")
            else:
                later.append(expires_at)
        if later:
            await self._wake_by(min(later))

    # -- sockets --------------------------------------------------------------------------------------------------------

    def _admit(self, socket: Any, who: Introspected, gateway: str) -> None:
        """Gives a new socket its channel, or makes it the gateway's."""
        if who.role == GATEWAY:
            for old in self.ctx.getWebSockets():  # a gateway that comes back knows nothing of its channels
                self._expel(old, "replaced", "the gateway connected again")
            channel, tag = 0, GATEWAY
        else:
            channel = int(self.ctx.storage.kv.get("channel") or 0) % 0xFFFFFFFF + 1
            self.ctx.storage.kv.put("channel", channel)
            tag = str(channel)
        self.ctx.acceptWebSocket(socket, to_js([tag]))
        self._attach(socket, who, channel)
        if channel:
            socket.send(to_js(frame(FrameType.OPENED, channel, encode(Opened(channel, gateway)))))
            opened = Open(who.node, who.tenant, who.session, who.expires_at)
            self._gateway_socket().send(to_js(frame(FrameType.OPEN, channel, encode(opened))))

    def _attach(self, socket: Any, who: Introspected, channel: int) -> None:
        facts = {
            "node": who.node,
            "session": who.session,
            "expires_at": who.expires_at,
            "channel": channel,
            "gone": False,
        }
        socket.serializeAttachment(to_js(facts, dict_converter=js.Object.fromEntries))

    def _gateway_socket(self) -> Any:
        """The one that is not about to end, or None."""
        alive = (socket for socket in self.ctx.getWebSockets(GATEWAY) if not socket.deserializeAttachment().gone)
        return next(alive, None)

    def _expel(self, socket: Any, code: str, reason: str) -> None:
        """Says why, and closes."""
        channel = int(socket.deserializeAttachment().channel)
        _send(socket, to_js(frame(FrameType.CLOSE, channel, encode(Close(code, reason)))))
        self._gone(socket)
        socket.close(_BAD if code in ("bad-message", "wrong-channel") else _ENDED, code)

    def _gone(self, socket: Any) -> None:
        """The other side of a socket that ended is told, once: one that we expelled also reports its own close. A gateway's
        end is the end of all its channels."""
        facts = socket.deserializeAttachment()
        if facts.gone:
            return
        facts.gone = True
        socket.serializeAttachment(facts)
        channel = int(facts.channel)
        if channel:
            for gateway in self.ctx.getWebSockets(GATEWAY):
                _send(gateway, to_js(frame(FrameType.CLOSE, channel, encode(Close("endpoint-gone")))))
            return
        if not self._gateway_socket():
            for endpoint in self.ctx.getWebSockets():
                number = int(endpoint.deserializeAttachment().channel)
                if number:
                    _send(endpoint, to_js(frame(FrameType.CLOSE, number, encode(Close("gateway-gone")))))
                    endpoint.close(_ENDED, "gateway-gone")

    def _cut(self, cut: Cut) -> None:
        for socket in self.ctx.getWebSockets():
            facts = socket.deserializeAttachment()
            if str(facts.node) == cut.node or str(facts.session) == cut.session:
                self._expel(socket, "revoked", "the fabric cut this session")

    # -- frames for the relay itself ------------------------------------------------------------------------------------

    def _own_frame(self, socket: Any, kind: FrameType, message: Any) -> None:
        if kind is FrameType.PING and message.byteLength <= HEADER.size + PING_PAYLOAD_MAX:
            payload = js.Uint8Array.new(message, HEADER.size).to_bytes()
            socket.send(to_js(frame(FrameType.PONG, 0, payload)))
        elif kind is FrameType.RENEW and message.byteLength <= HEADER.size + _TOKEN_MAX:
            token = js.Uint8Array.new(message, HEADER.size).to_bytes().decode("ascii", "replace")
            self.ctx.waitUntil(asyncio.ensure_future(self._renew(socket, token)))
        elif kind is not FrameType.PONG:
            self._expel(socket, "bad-message", f"a node does not send {kind.name} of {message.byteLength} bytes")

    async def _renew(self, socket: Any, token: str) -> None:
        """A renewed session lengthens the life of its own socket only."""
        facts = socket.deserializeAttachment()
        try:
            who = await self._introspect(token, str(self.ctx.storage.kv.get("gateway")))
        except TokenRefused as error:
            self._expel(socket, error.problem.code, error.problem.detail)
            return
        if who.session != str(facts.session):
            self._expel(socket, "unauthorized", "this token is of another session")
            return
        self._attach(socket, who, int(facts.channel))
        socket.send(to_js(frame(FrameType.RENEWED, int(facts.channel), encode(Renewed(who.expires_at)))))

    async def _introspect(self, token: str, gateway: str) -> Introspected:
        self.ctx.storage.kv.put("gateway", gateway)
        return await introspect(self.env.CONTROL, self.env.INTERNAL_KEY, token, gateway)

    async def _wake_by(self, unix: int) -> None:
        """The alarm stands at the earliest end of any socket."""
        due = await self.ctx.storage.getAlarm()
        if due is None or due > unix * 1000:
            await self.ctx.storage.setAlarm(unix * 1000)


def _send(socket: Any, message: Any) -> None:
    """A socket that is listed but about to end takes nothing more; that is no reason to stop serving the others."""
    try:
        socket.send(message)
    except JsException:
        return


def problem_response(problem: Problem) -> Response:
    return Response(
        msgspec.json.encode(problem).decode(), status=problem.status, headers={"content-type": CONTENT_TYPE}
    )
