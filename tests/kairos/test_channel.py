"""The relay channel's credit: docs/protocol.md §5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.constants import CONTROL_MESSAGE_MAX, STREAM_WAITING_MAX
from kairos.errors import BadMessage, Refused
from kairos.protocol.channel import Channel
from kairos.wire.frame import HEADER, STREAM_WINDOW, FrameType, parse_frame_header_untrusted

Frames = list[bytes]


def payloads(frames: Frames, kind: FrameType) -> list[bytes]:
    return [f[HEADER.size :] for f in frames if parse_frame_header_untrusted(f[:8], len(f)).type is kind]


def test_stream_stops_at_the_window_and_goes_on_with_credit() -> None:
    sender, receiver = Channel(1, stream_window=100), Channel(1, stream_window=100)
    sent = payloads(sender.send_stream(bytes(range(150))), FrameType.STREAM)
    assert [len(p) for p in sent] == [100]
    assert sender.send_stream(b"") == []
    receiver.stream_received(100)
    [credit] = payloads(receiver.stream_consumed(100), FrameType.CREDIT)
    sent += payloads(sender.credit_received_untrusted(credit, 0), FrameType.STREAM)
    assert b"".join(sent) == bytes(range(150))


def test_stream_beyond_the_window_closes_the_channel() -> None:
    channel = Channel(1, stream_window=100)
    channel.stream_received(100)
    with pytest.raises(Refused) as refusal:
        channel.stream_received(1)
    assert refusal.value.code == "credit-exceeded"


def test_datagrams_beyond_the_window_are_dropped_and_counted() -> None:
    channel = Channel(1, datagram_window=100)
    assert channel.datagrams_received(100)
    assert not channel.datagrams_received(1)
    assert channel.datagrams_refused == 1
    channel.datagrams_consumed(100)
    assert channel.datagrams_received(100)


def test_credit_is_granted_in_halves_of_a_window() -> None:
    channel = Channel(1, datagram_window=100)
    assert channel.datagrams_received(49)
    assert channel.datagrams_consumed(49) == []
    assert channel.datagrams_received(1)
    [credit] = payloads(channel.datagrams_consumed(1), FrameType.CREDIT)
    assert int.from_bytes(credit, "big") == 50


def test_a_window_never_grows() -> None:
    channel = Channel(1)
    with pytest.raises(BadMessage):
        channel.credit_received_untrusted((1).to_bytes(4, "big"), 0)


@given(st.binary(max_size=8), st.integers(0, 1))
def test_any_credit_is_taken_or_bad(payload: bytes, flags: int) -> None:
    channel = Channel(1, stream_window=64)
    channel.send_stream(bytes(64))
    try:
        channel.credit_received_untrusted(payload, flags)
    except BadMessage:
        return
    assert len(payload) == 4


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_all_bytes_arrive_in_order_whatever_the_sizes(pieces: list[bytes]) -> None:
    sender, receiver = Channel(1, stream_window=128), Channel(1, stream_window=128)
    arrived, frames = b"", []
    for piece in pieces:
        frames += sender.send_stream(piece)
        while frames:
            data = frames.pop(0)[HEADER.size :]
            receiver.stream_received(len(data))
            arrived += data
            for credit in payloads(receiver.stream_consumed(len(data)), FrameType.CREDIT):
                frames += sender.credit_received_untrusted(credit, 0)
    assert arrived == b"".join(pieces)


def test_a_peer_that_grants_nothing_costs_a_stated_amount_and_is_given_up() -> None:
    channel = Channel(1)
    for _ in range(0, STREAM_WINDOW + STREAM_WAITING_MAX, 1024):
        channel.send_stream(bytes(1024))
    with pytest.raises(Refused) as refusal:
        channel.send_stream(b"x")
    assert refusal.value.code == "not-reading"
    assert channel.send_stream(b"x") == []  # nor does the word that ends the tunnel wait
    assert channel.credit_received_untrusted(STREAM_WINDOW.to_bytes(4, "big"), 0) == []


def test_a_slow_peer_may_have_two_of_the_longest_messages_waiting() -> None:
    channel = Channel(1)
    channel.send_stream(bytes(STREAM_WINDOW))
    channel.send_stream(bytes(2 * CONTROL_MESSAGE_MAX))
    [released] = payloads(channel.credit_received_untrusted(STREAM_WINDOW.to_bytes(4, "big"), 0), FrameType.STREAM)
    assert len(released) == STREAM_WINDOW
