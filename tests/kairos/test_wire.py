"""Every parser of network bytes: whole, cut, extended, flipped. Accepted or BadMessage, nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.errors import BadMessage
from kairos.identity.join_token import JoinToken, parse_join_token_untrusted
from kairos.identity.signed_request import Proof, parse_proof_untrusted
from kairos.identity.spiffe import SpiffeId, parse_spiffe_untrusted
from kairos.wire import control
from kairos.wire.control import MessageStream, encode, parse_message_untrusted
from kairos.wire.datagram import DatagramHeader, DatagramType, nonce, parse_header_untrusted

MESSAGES: list[control.Message] = [
    control.Hello("s-1", "cryptography", "0.1.0"),
    control.KemOffer(7, b"k" * 1184, b"s" * 3309),
    control.KemAnswer(7, b"c" * 1088, b"s" * 3309),
    control.Config(
        3, (control.VniConfig(9, "lab", 77, 1380, ("10.7.0.5/24", "fd07::5/64"), ("10.9.0.0/16",), "lab"),), ("h:1",)
    ),
    control.Confirm(3, ((9, 5), (10, 6))),
    control.Ready(7),
    control.Ping(1),
    control.Pong(2),
    control.Close("revoked", "the operator said so"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_message_survives_the_wire_in_any_slices(message: control.Message) -> None:
    wire = encode(message)
    assert parse_message_untrusted(wire[4:]) == message
    stream = MessageStream()
    received = [got for byte in wire for got in stream.feed_untrusted(bytes([byte]))]
    assert received == [message]
    assert list(MessageStream().feed_untrusted(wire + wire)) == [message, message]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_cut_or_extended_message_is_bad(message: control.Message) -> None:
    frame = encode(message)[4:]
    for end in range(len(frame)) if len(frame) < 200 else (0, 1, 5, len(frame) // 2, len(frame) - 1):
        with pytest.raises(BadMessage):
            parse_message_untrusted(frame[:end])
    with pytest.raises(BadMessage):
        parse_message_untrusted(frame + b"\0")


@given(st.sampled_from(MESSAGES), st.data())
def test_flipped_message_parses_or_is_bad(message: control.Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message)[4:])
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(BadMessage):
        assert encode(parse_message_untrusted(bytes(frame)))[4:] == bytes(frame)


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_bad(data: bytes) -> None:
    for parse in (parse_message_untrusted, parse_header_untrusted, lambda d: list(MessageStream().feed_untrusted(d))):
        with contextlib.suppress(BadMessage):
            parse(data)


@given(st.text(max_size=200))
def test_any_text_parses_or_is_bad(text: str) -> None:
    for parse in (parse_join_token_untrusted, parse_proof_untrusted, parse_spiffe_untrusted):
        for candidate in (text, "kairos-join-1." + text, "spiffe://" + text):
            with contextlib.suppress(BadMessage):
                parse(candidate)


def test_oversized_message_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(BadMessage, match="262145"):
        list(MessageStream().feed_untrusted((262145).to_bytes(4, "big")))


def test_datagram_header_layout() -> None:
    header = DatagramHeader(DatagramType.DATA, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F)
    assert header.pack().hex() == "01000203040506070809" + "0a0b0c0d0e0f"
    assert parse_header_untrusted(header.pack() + bytes(16)) == header


@pytest.mark.parametrize("wire", [b"", bytes(31), b"\x06" + bytes(31), b"\x01\x01" + bytes(30)])
def test_bad_datagram_header(wire: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_header_untrusted(wire)


def test_nonce_is_iv_xor_counter() -> None:
    assert nonce(b"\xff" * 12, 1) == b"\xff" * 11 + b"\xfe"
    assert nonce(bytes(12), 1 << 63) == bytes(4) + b"\x80" + bytes(7)


def test_join_token_round_trip_and_damage() -> None:
    token = JoinToken("https://f.example", "red.test", "KR1", "acme", "endpoint", "t1", b"s" * 32, b"r" * 32, b"p" * 32)
    assert parse_join_token_untrusted(f"  {token}\n") == token
    for text in (str(token)[:-7], str(token) + "AAAA", str(token).replace("join-1", "join-2"), ""):
        with pytest.raises(BadMessage):
            parse_join_token_untrusted(text)


def test_proof_round_trip() -> None:
    proof = Proof(1_790_000_000, b"n" * 16, b"s" * 3309)
    assert parse_proof_untrusted(str(proof)) == proof


@pytest.mark.parametrize("role", ["endpoint", "gateway"])
def test_spiffe_round_trip(role: str) -> None:
    name = SpiffeId("red.test", "acme", role, "web-1")
    assert parse_spiffe_untrusted(str(name)) == name


@pytest.mark.parametrize(
    "uri",
    [
        "https://red.test/tenant/a/device/b",
        "spiffe://red.test/tenant/a/device/b/c",
        "spiffe://red.test/tenant/A/device/b",
        "spiffe://red.test/tenant/a/admin/b",
        "spiffe:///tenant/a/device/b",
        "spiffe://red.test/tenant/a/device/",
    ],
)
def test_other_names_are_bad(uri: str) -> None:
    with pytest.raises(BadMessage):
        parse_spiffe_untrusted(uri)
