"""The relay's own count of credit: it never wrongs an end that keeps the rules, and never lets more than a window pile up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.protocol.channel import Channel
from kairos.wire.frame import (
    DATAGRAM_WINDOW,
    FLAG_DATAGRAMS,
    FRAME_PAYLOAD_MAX,
    HEADER,
    STREAM_WINDOW,
    FrameHeader,
    FrameType,
    parse_frame_header_untrusted,
)
from kairos_relay.meter import BARE_FRAMES_PER_S, Meter, Ruling

CHANNEL = 7


def header(kind: FrameType, flags: int = 0, channel: int = CHANNEL) -> FrameHeader:
    return FrameHeader(kind, flags, channel)


@pytest.mark.parametrize("from_gateway", [False, True])
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 2 * FRAME_PAYLOAD_MAX)), max_size=60))
def test_two_honest_ends_always_pass(from_gateway: bool, steps: list[tuple[bool, int]]) -> None:
    """Each step: the sender has `size` more bytes, or the receiver takes in what has come."""
    sender, receiver, meter = Channel(CHANNEL), Channel(CHANNEL), Meter()
    arrived = 0
    for takes_in, size in steps:
        frames = sender.send_stream(bytes(0 if takes_in else size))
        while frames:
            frame = frames.pop(0)
            parsed = parse_frame_header_untrusted(frame, len(frame))
            payload = len(frame) - HEADER.size
            assert meter.sent(parsed, payload, from_gateway=from_gateway) is Ruling.PASS
            receiver.stream_received(payload)
            arrived += payload
            for credit in receiver.stream_consumed(arrived) if takes_in else []:
                granted = credit[HEADER.size :]
                grant = parse_frame_header_untrusted(credit, len(credit))
                meter.granted(grant, int.from_bytes(granted, "big"), from_gateway=not from_gateway)
                frames += sender.credit_received_untrusted(granted, 0)
            arrived = 0 if takes_in else arrived


@given(st.lists(st.tuples(st.booleans(), st.integers(0, FRAME_PAYLOAD_MAX)), max_size=100))
def test_no_more_than_a_window_passes_without_a_grant(steps: list[tuple[bool, int]]) -> None:
    meter = Meter()
    under_way = dict.fromkeys((FrameType.STREAM, FrameType.DATAGRAMS), 0)
    for stream, size in steps:
        kind = FrameType.STREAM if stream else FrameType.DATAGRAMS
        ruling = meter.sent(header(kind), size, from_gateway=False)
        under_way[kind] += size if ruling is Ruling.PASS else 0
        assert ruling in (Ruling.PASS, Ruling.EXCEEDED if stream else Ruling.DROP)
    assert under_way[FrameType.STREAM] <= STREAM_WINDOW
    assert under_way[FrameType.DATAGRAMS] <= DATAGRAM_WINDOW


def test_a_grant_beyond_what_was_sent_saves_nothing_up() -> None:
    meter = Meter()
    meter.granted(header(FrameType.CREDIT, FLAG_DATAGRAMS), 2**32 - 1, from_gateway=True)
    meter.granted(header(FrameType.CREDIT), 2**32 - 1, from_gateway=True)
    assert meter.sent(header(FrameType.STREAM), STREAM_WINDOW, from_gateway=False) is Ruling.PASS
    assert meter.sent(header(FrameType.STREAM), 1, from_gateway=False) is Ruling.EXCEEDED
    assert meter.sent(header(FrameType.STREAM), 1, from_gateway=True) is Ruling.PASS
    assert meter.sent(header(FrameType.STREAM, channel=8), 1, from_gateway=False) is Ruling.PASS


def test_a_second_holds_so_many_bare_frames_and_the_next_as_many_again() -> None:
    meter = Meter()
    for second in (100.0, 101.9):
        rulings = [meter.bare(CHANNEL, second) for _ in range(BARE_FRAMES_PER_S + 1)]
        assert rulings == [Ruling.PASS] * BARE_FRAMES_PER_S + [Ruling.FLOODING]
    assert meter.bare(8, 101.9) is Ruling.PASS
    meter.forget(CHANNEL)
    assert meter.bare(CHANNEL, 101.9) is Ruling.PASS
