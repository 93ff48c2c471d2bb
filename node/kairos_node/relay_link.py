"""T2: one WebSocket to the relay, and the channels on it (docs/protocol.md §5).

An endpoint's socket carries one channel, a gateway's all channels of that gateway. Three rules keep a slow relay from
harming anything but throughput:

- STREAM and CREDIT go out at once; the channel's credit bounds what they can pile up in the socket.
- DATAGRAMS are taken from the data plane's queue only while credit and the socket allow. So they wait in C, where the
  oldest are dropped, and a frame carries whatever was queued when it was sent: batching without added delay.
- What arrives is handed to the data plane out of the socket's own buffer, and credit is granted after that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

import msgspec
from picows import WSError, WSFrame, WSHandshakeError, WSListener, WSMsgType, WSTransport, ws_connect

from kairos.api.problem import Problem
from kairos.api.relay import Close, encode, parse_close_untrusted, parse_open_untrusted, parse_opened_untrusted
from kairos.errors import UNREADABLE, BadMessage, KairosError, Refused
from kairos.protocol.channel import Channel
from kairos.wire import frame as wire
from kairos.wire.frame import FLAG_DATAGRAMS, FRAME_PAYLOAD_MAX, FrameHeader, FrameType
from kairos_dataplane import Dataplane

_log = logging.getLogger(__name__)
_PING_AFTER_S = 10.0  # of silence from the relay
_DEAD_AFTER_S = 25.0
_OPEN_WAIT_S = 5.0
_SOCKET_HIGH_WATER = 262_144  # bytes in the socket's buffer at which datagrams wait in the data plane
_RECORD_MAX = 2 + 65_535
_relay_ids = itertools.count(1)  # names of queues in the data plane, never reused by this process


class ChannelUser(Protocol):
    """What stands behind a channel: a tunnel."""

    def stream_received(self, data: bytes) -> None: ...
    def channel_lost(self, code: str, reason: str) -> None: ...


class ChannelFacts(msgspec.Struct, frozen=True):
    """Who the relay says is at the other end. Nothing here is trusted before T3."""

    peer: str
    session: str = ""


class RelayChannel:
    """One channel: STREAM for the tunnel's TLS, and the data plane's relay queue `relay` for its datagrams."""

    def __init__(self, link: RelayLink, facts: ChannelFacts, number: int) -> None:
        self.facts = facts
        self.machine = Channel(number)
        self.relay = next(_relay_ids)
        self.user: ChannelUser | None = None
        self._link = link

    @property
    def relay_address(self) -> IPv4Address | IPv6Address | None:
        """Of the relay's host; None: the connection is lost."""
        return self._link.address

    def send_stream(self, data: bytes) -> None:
        """Raises Refused("not-reading"): more waits for the peer's credit than may."""
        self._link.send_frames(self.machine.send_stream(data))

    def close(self, code: str, reason: str) -> None:
        """Tells the other end; its user hears nothing of it."""
        self.user = None
        self._link.close_channel(self, code, reason)


Accept = Callable[[RelayChannel], ChannelUser]


class RelayLink(WSListener):
    """One connected socket. `accept` is called for every channel; `lost` is done when the socket is gone."""

    def __init__(self, dataplane: Dataplane, accept: Accept) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()
        self._dataplane = dataplane
        self._accept = accept
        self._loop = loop
        self._transport: WSTransport | None = None
        self._channels: dict[int, RelayChannel] = {}
        self._by_relay: dict[int, RelayChannel] = {}
        self._ready: dict[int, RelayChannel] = {}  # datagrams wait in the data plane, by relay queue; oldest first
        self._paused = False
        self._partial = bytearray()  # of a message in several WebSocket frames
        self._out = memoryview(bytearray(wire.HEADER.size + FRAME_PAYLOAD_MAX))
        self._heard_at = loop.time()
        self._watch: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, url: str, token: str, dataplane: Dataplane, accept: Accept) -> RelayLink:
        """Connects. Raises ConnectionError."""
        link = cls(dataplane, accept)
        try:
            async with asyncio.timeout(2 * _OPEN_WAIT_S):  # to connect, and then to be upgraded
                await ws_connect(
                    lambda: link,
                    url.replace("http", "ws", 1),
                    extra_headers={"Authorization": f"Bearer {token}"},
                    max_frame_size=wire.HEADER.size + FRAME_PAYLOAD_MAX,
                    websocket_handshake_timeout=_OPEN_WAIT_S,
                )
        except TimeoutError:
            raise ConnectionError(f"relay {url}: no answer in time") from None
        except WSHandshakeError as error:
            raise ConnectionError(f"relay {url}: {_refusal_untrusted(error)}") from None
        except (WSError, OSError) as error:
            raise ConnectionError(f"relay {url}: {error}") from None
        if link._transport is None:  # the connection ended before the upgrade: picows says nothing of it
            raise ConnectionError(f"relay {url}: it closed the connection")
        return link

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """Of the relay's host; None: the connection is lost."""
        if self._transport is None:
            return None
        peer = self._transport.underlying_transport.get_extra_info("peername")
        return ip_address(peer[0]) if peer else None

    # -- for the tunnels ---------------------------------------------------------------------------------------------

    def send_frames(self, frames: list[bytes]) -> None:
        if self._transport is not None:
            for frame in frames:
                self._transport.send(WSMsgType.BINARY, frame)

    def renew(self, token: str) -> None:
        """The session behind this socket was extended."""
        self.send_frames([wire.encode(FrameType.RENEW, 0, token.encode())])

    def close_channel(self, channel: RelayChannel, code: str, reason: str) -> None:
        if self._channels.get(channel.machine.number) is channel:
            self.send_frames([wire.encode(FrameType.CLOSE, channel.machine.number, encode(Close(code, reason)))])
            self._forget(channel)

    def close(self) -> None:
        """Ends the socket and every channel on it."""
        if self._transport is not None:
            self._transport.disconnect()

    def datagrams_waiting(self, relay: int) -> None:
        """The data plane's queue `relay` has something: an event of type RelayReady."""
        channel = self._by_relay.get(relay)
        if channel is not None:
            self._ready[relay] = channel
            self._pump()

    # -- picows ------------------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=_SOCKET_HIGH_WATER)
        self._heard_at = self._loop.time()
        self._watch = self._loop.call_later(_PING_AFTER_S, self._watch_silence)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self._heard_at = self._loop.time()
        if frame.msg_type in (WSMsgType.BINARY, WSMsgType.CONTINUATION):
            message = self._whole_message(frame)
            if message is not None:
                self._message_untrusted(message)
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
        for channel in list(self._channels.values()):
            self._lost(channel, "relay-lost", "the connection to the relay ended")
        if not self.lost.done():
            close = transport.close_handshake
            self.lost.set_result(close.recv.reason if close is not None and close.recv is not None else "")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    # -- frames in ---------------------------------------------------------------------------------------------------

    def _whole_message(self, frame: WSFrame) -> memoryview | None:
        if frame.fin and not self._partial:
            return frame.get_payload_as_memoryview()
        self._partial += frame.get_payload_as_memoryview()
        if len(self._partial) > wire.HEADER.size + FRAME_PAYLOAD_MAX:
            self.close()
            return None
        if not frame.fin:
            return None
        message, self._partial = memoryview(self._partial), bytearray()
        return message

    def _message_untrusted(self, message: memoryview) -> None:
        """One frame. Whatever is wrong with it ends the channel it names, or the socket; it raises nothing."""
        try:
            header = wire.parse_frame_header_untrusted(message[: wire.HEADER.size], len(message))
            self._frame_untrusted(header, message[wire.HEADER.size :])
        except KairosError as error:
            _log.warning("the relay sent a bad frame: %s", error)
            self.close()

    def _frame_untrusted(self, header: FrameHeader, payload: memoryview) -> None:
        match header.type:
            case FrameType.OPEN:
                who = parse_open_untrusted(payload)
                self._open(header.channel, ChannelFacts(who.node, who.session))
            case FrameType.OPENED:
                self._open(header.channel, ChannelFacts(parse_opened_untrusted(payload).gateway))
            case FrameType.PING if len(payload) <= wire.PING_PAYLOAD_MAX:
                if not self._paused:  # a relay that reads nothing would have its answers pile up here
                    self.send_frames([wire.encode(FrameType.PONG, header.channel, bytes(payload))])
            case FrameType.STREAM | FrameType.DATAGRAMS | FrameType.CREDIT | FrameType.CLOSE:
                channel = self._channels.get(header.channel)
                if channel is not None:  # else it was closed while this frame was on its way
                    self._on_channel_untrusted(channel, header, payload)
            case FrameType.PONG | FrameType.RENEWED:
                pass
            case _:
                raise BadMessage(f"a relay does not send {header.type.name}")

    def _on_channel_untrusted(self, channel: RelayChannel, header: FrameHeader, payload: memoryview) -> None:
        try:
            match header.type:
                case FrameType.DATAGRAMS:
                    self._datagrams(channel, payload)
                case FrameType.STREAM:
                    self._stream(channel, payload)
                case FrameType.CREDIT:
                    self.send_frames(channel.machine.credit_received_untrusted(payload, header.flags))
                    if header.flags & FLAG_DATAGRAMS:
                        self._pump()
                case FrameType.CLOSE:
                    close = parse_close_untrusted(payload)
                    self._lost(channel, close.code, close.reason)
        except (BadMessage, Refused) as error:
            self._give_up(channel, error.code if isinstance(error, Refused) else "bad-message", str(error))
        except Exception:  # a defect met by one tunnel must not end all the others on this socket
            _log.exception("channel %d", channel.machine.number)
            self._give_up(channel, "internal", "an unexpected error; the log of this node says which")

    def _give_up(self, channel: RelayChannel, code: str, reason: str) -> None:
        user = channel.user
        channel.close(code, reason)
        if user is not None:
            user.channel_lost(code, reason)

    def _datagrams(self, channel: RelayChannel, payload: memoryview) -> None:
        size = len(payload)
        if not channel.machine.datagrams_received(size):
            return
        try:
            self._dataplane.put_relay(channel.relay, payload)
        except OSError as error:
            raise BadMessage(f"DATAGRAMS: {error.strerror}") from None
        self.send_frames(channel.machine.datagrams_consumed(size))

    def _stream(self, channel: RelayChannel, payload: memoryview) -> None:
        size = len(payload)
        channel.machine.stream_received(size)
        if channel.user is not None:
            channel.user.stream_received(bytes(payload))
        if channel.user is not None:  # else it has just ended, and a frame on it would be one on no channel
            self.send_frames(channel.machine.stream_consumed(size))

    # -- channels ----------------------------------------------------------------------------------------------------

    def _open(self, number: int, facts: ChannelFacts) -> None:
        if number in self._channels:
            raise BadMessage(f"channel {number} was opened twice")
        channel = RelayChannel(self, facts, number)
        self._dataplane.add_relay(channel.relay)
        self._channels[number] = self._by_relay[channel.relay] = channel
        channel.user = self._accept(channel)

    def _forget(self, channel: RelayChannel) -> None:
        del self._channels[channel.machine.number]
        del self._by_relay[channel.relay]
        self._ready.pop(channel.relay, None)
        self._dataplane.remove_relay(channel.relay)

    def _lost(self, channel: RelayChannel, code: str, reason: str) -> None:
        user, channel.user = channel.user, None
        self._forget(channel)
        if user is not None:
            user.channel_lost(code, reason)

    # -- datagrams out -----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """One frame of each ready channel in turn, while the socket takes them."""
        while self._ready and not self._paused and self._transport is not None:
            blocked = 0
            for relay, channel in list(self._ready.items()):
                if self._paused:
                    return
                room = channel.machine.datagram_room
                size = self._send_datagrams(channel, room)
                if size == 0 and room >= _RECORD_MAX:
                    del self._ready[relay]  # empty: the data plane tells when there is more
                elif size == 0:
                    blocked += 1  # waits for credit
            if blocked == len(self._ready):
                return

    def _send_datagrams(self, channel: RelayChannel, room: int) -> int:
        """One DATAGRAMS frame out of the data plane; returns its payload bytes."""
        start = wire.HEADER.size
        size = self._dataplane.take_relay_into(channel.relay, self._out[start : start + room]) if room else 0
        if size and self._transport is not None:
            self._out[:start] = FrameHeader(FrameType.DATAGRAMS, 0, channel.machine.number).pack()
            self._transport.send(WSMsgType.BINARY, self._out[: start + size])
            channel.machine.datagrams_sent(size)
        return size

    def _watch_silence(self) -> None:
        silent = self._loop.time() - self._heard_at
        if silent > _DEAD_AFTER_S:
            _log.warning("the relay was silent for %d s", silent)
            self.close()
            return
        if silent >= _PING_AFTER_S / 2:
            self.send_frames([wire.encode(FrameType.PING, 0, b"alive?")])
        self._watch = self._loop.call_later(_PING_AFTER_S / 2, self._watch_silence)


def _refusal_untrusted(error: WSHandshakeError) -> str:
    """The problem that the relay answered with instead of a socket."""
    try:
        problem = msgspec.json.decode(error.raw_body or b"", type=Problem)
    except UNREADABLE:
        return str(error)
    return f"{problem.title}: {problem.detail}" if problem.detail else problem.title
