"""The relay's own count of credit: it never wrongs an end that keeps the rules, and never lets more than a window pile up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.constants import STREAM_WAITING_MAX
from kairos.protocol.channel import Channel
from kairos.wire.frame import (
    DATAGRAM_WINDOW,
    FLAG_DATAGRAMS,
    FRAME_PAYLOAD_MAX,
    HEADER,
    STREAM_WINDOW,
    FrameType,
    parse_frame_header_untrusted,
)
from kairos_relay.meter import BARE_FRAMES_PER_S, RENEWAL_COST, Direction, Meter, Ruling

CHANNEL = 7


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 2 * FRAME_PAYLOAD_MAX)), max_size=60))
def test_two_honest_ends_always_pass(steps: list[tuple[bool, int]]) -> None:
    """Each step: the sender has `size` more bytes, or the receiver takes in what has come."""
    sender, receiver, counted = Channel(CHANNEL), Channel(CHANNEL), Direction()
    arrived = 0
    waiting = 0  # for credit
    for takes_in, size in steps:
        if not takes_in and waiting + size > STREAM_WAITING_MAX:
            continue  # no honest sender has more for a receiver that takes in nothing
        waiting += 0 if takes_in else size
        frames = sender.send_stream(bytes(0 if takes_in else size))
        while frames:
            frame = frames.pop(0)
            parsed = parse_frame_header_untrusted(frame, len(frame))
            payload = len(frame) - HEADER.size
            waiting -= payload
            assert counted.sent(parsed.type, payload) is Ruling.PASS
            receiver.stream_received(payload)
            arrived += payload
            for credit in receiver.stream_consumed(arrived) if takes_in else []:
                granted = credit[HEADER.size :]
                grant = parse_frame_header_untrusted(credit, len(credit))
                counted.granted(int.from_bytes(granted, "big"), datagrams=grant.flags == FLAG_DATAGRAMS)
                frames += sender.credit_received_untrusted(granted, 0)
            arrived = 0 if takes_in else arrived


@given(st.lists(st.tuples(st.booleans(), st.integers(0, FRAME_PAYLOAD_MAX)), max_size=100))
def test_no_more_than_a_window_passes_without_a_grant(steps: list[tuple[bool, int]]) -> None:
    counted = Direction()
    under_way = dict.fromkeys((FrameType.STREAM, FrameType.DATAGRAMS), 0)
    for stream, size in steps:
        kind = FrameType.STREAM if stream else FrameType.DATAGRAMS
        ruling = counted.sent(kind, size)
        under_way[kind] += size if ruling is Ruling.PASS else 0
        assert ruling in (Ruling.PASS, Ruling.EXCEEDED if stream else Ruling.DROP)
    assert under_way[FrameType.STREAM] <= STREAM_WINDOW
    assert under_way[FrameType.DATAGRAMS] <= DATAGRAM_WINDOW


def test_a_grant_beyond_what_was_sent_saves_nothing_up() -> None:
    meter = Meter()
    meter.from_endpoint.granted(2**32 - 1, datagrams=True)
    meter.from_endpoint.granted(2**32 - 1, datagrams=False)
    assert meter.from_endpoint.sent(FrameType.STREAM, STREAM_WINDOW) is Ruling.PASS
    assert meter.from_endpoint.sent(FrameType.STREAM, 1) is Ruling.EXCEEDED
    assert meter.from_endpoint.sent(FrameType.DATAGRAMS, DATAGRAM_WINDOW) is Ruling.PASS
    assert meter.from_endpoint.sent(FrameType.DATAGRAMS, 1) is Ruling.DROP
    assert meter.from_gateway.sent(FrameType.STREAM, 1) is Ruling.PASS
    assert meter.from_gateway.sent(FrameType.DATAGRAMS, 1) is Ruling.PASS


@pytest.mark.parametrize("cost", [1, RENEWAL_COST])
def test_a_second_holds_so_many_bare_frames_and_the_next_as_many_again(cost: int) -> None:
    meter, frames = Meter(), BARE_FRAMES_PER_S // cost
    for second in (100.0, 101.9):
        rulings = [meter.bare(second, cost) for _ in range(frames + 1)]
        assert rulings == [Ruling.PASS] * frames + [Ruling.FLOODING]
