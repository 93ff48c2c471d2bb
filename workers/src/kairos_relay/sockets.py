"""The sockets of one relay object, and what is known of each.

Every socket has a number that is never given twice at this relay; an endpoint's number is its channel. The runtime
keeps a socket open while it evicts the object from memory, so all that must be known afterwards is in the socket's
attachment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import js
from pyodide.ffi import JsException, to_js

from kairos.api.relay import RelayMessage, encode
from kairos.wire.frame import FrameType
from kairos.wire.frame import encode as frame

from .meter import Meter

Role = Literal["gateway", "endpoint"]


@dataclass(slots=True, eq=False)
class End:
    """A live socket: the end of one channel, or the gateway's end of all channels."""

    socket: Any
    """The WebSocket, an object of JavaScript."""
    send: Callable[[Any], None]
    """Its method of that name, looked up once: each look-up in JavaScript costs microseconds."""
    number: int
    """Its number, 1 to 2**32 - 1."""
    is_gateway: bool
    """Whether it is the gateway's."""
    node: str
    """The node's name."""
    session: str
    """The session that its token belongs to."""
    expires_at: int
    """When the session ends unless it is renewed, Unix seconds."""
    meter: Meter = field(default_factory=Meter)
    """What is under way on its channel. On the gateway's socket: how often it has renewed."""
    is_renewing: bool = False
    """Whether the control plane is being asked about a RENEW of this socket."""

    @property
    def channel(self) -> int:
        """The channel number in frames that the relay itself sends on this socket; 0 on the gateway's."""
        return 0 if self.is_gateway else self.number

    def send_buffer(self, message: Any) -> None:
        """Sends a buffer of JavaScript. Does nothing if the socket is closing."""
        try:
            self.send(message)
        except JsException:
            return

    def send_frame(self, kind: FrameType, message: RelayMessage, channel: int) -> None:
        """Sends a frame that the relay makes itself."""
        self.send_buffer(to_js(frame(kind, channel, encode(message))))

    def attach(self, *, ended: bool = False) -> None:
        """Stores what must outlive an eviction."""
        facts = {
            "number": self.number,
            "is_gateway": self.is_gateway,
            "node": self.node,
            "session": self.session,
            "expires_at": self.expires_at,
            "ended": ended,
        }
        self.socket.serializeAttachment(to_js(facts, dict_converter=js.Object.fromEntries))


class Sockets:
    """All live sockets of the object. One that has ended is not among them, although its peer may go on sending."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._live: dict[int, End] = {}
        self.gateway: End | None = None
        for socket in ctx.getWebSockets():
            facts = socket.deserializeAttachment()
            if not facts.ended:
                self._remember(
                    End(
                        socket, socket.send, int(facts.number), bool(facts.is_gateway), str(facts.node),
                        str(facts.session), int(facts.expires_at),
                    )
                )  # fmt: skip

    def accept(self, socket: Any, number: int, role: str, node: str, session: str, expires_at: int) -> End:
        """Takes a new socket in. Its tags let `of_session` and `of_node` find it."""
        self._ctx.acceptWebSocket(socket, to_js([f"session/{session}", f"node/{node}"]))
        end = End(socket, socket.send, number, role == "gateway", node, session, expires_at)
        end.attach()
        self._remember(end)
        return end

    def of(self, socket: Any) -> End | None:
        """The end that an event of this socket belongs to; None if it has ended.

        Python sees a new proxy of the same JavaScript object at each event, so the proxy itself is no key. The number
        is therefore a property of the JavaScript object, written at its first event.
        """
        try:
            number = socket.kairosNumber
        except AttributeError:
            number = socket.kairosNumber = int(socket.deserializeAttachment().number)
        return self._live.get(number)

    def numbered(self, number: int) -> End | None:
        return self._live.get(number)

    def of_session(self, session: str) -> list[End]:
        return self._tagged(f"session/{session}")

    def of_node(self, node: str) -> list[End]:
        return self._tagged(f"node/{node}")

    def _tagged(self, tag: str) -> list[End]:
        return [end for socket in self._ctx.getWebSockets(tag) if (end := self.of(socket)) is not None]

    def endpoints(self) -> list[End]:
        return [end for end in self._live.values() if not end.is_gateway]

    def everyone(self) -> Iterator[End]:
        """The endpoints first: each is then closed with its own reason and not with that of the gateway."""
        yield from self.endpoints()
        if self.gateway is not None:
            yield self.gateway

    def end(self, end: End) -> bool:
        """Ignores the socket from now on, also after an eviction. False: it had ended before."""
        if self._live.pop(end.number, None) is None:
            return False
        if self.gateway is end:
            self.gateway = None
        end.attach(ended=True)
        return True

    def _remember(self, end: End) -> None:
        self._live[end.number] = end
        if end.is_gateway:
            self.gateway = end
