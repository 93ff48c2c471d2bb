"""What programs say to the proxy: both languages, in any slices, and nonsense."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kairos.errors import BadMessage
from kairos_agent.proxy.http_connect import HEAD_MAX, HttpConnect
from kairos_agent.proxy.negotiation import Negotiation, Outcome, Target
from kairos_agent.proxy.socks import Socks5

BASIC = base64.b64encode(b"office:secret")
V6 = ip_address("fd07::5")
REQUESTS: list[tuple[str, Callable[[], Negotiation], bytes, Target]] = [
    ("v4", Socks5, b"\5\1\0" + b"\5\1\0\1\x0a\7\0\5\0\x50", Target(ip_address("10.7.0.5"), 80)),
    ("v6", Socks5, b"\5\2\0\1" + b"\5\1\0\4" + V6.packed + b"\1\xbb", Target(V6, 443)),
    (
        "mapped",
        Socks5,
        b"\5\1\0\5\1\0\4" + b"\0" * 10 + b"\xff\xff\x0a\7\0\5\0\x50",
        Target(ip_address("10.7.0.5"), 80),
    ),
    ("name", Socks5, b"\5\1\0" + b"\5\1\0\3\x0aBob.office\0\x16", Target("bob.office", 22)),
    ("address as a name", Socks5, b"\5\1\0" + b"\5\1\0\3\x0810.7.0.5\0\x16", Target(ip_address("10.7.0.5"), 22)),
    ("user", Socks5, b"\5\2\0\2" + b"\1\6office\1x" + b"\5\1\0\3\3bob\0\x16", Target("bob", 22, "office")),
    ("no password", Socks5, b"\5\1\2" + b"\1\6office\0" + b"\5\1\0\3\3bob\0\x16", Target("bob", 22, "office")),
    ("http", HttpConnect, b"CONNECT bob.office.:443 HTTP/1.1\r\nHost: x\r\n\r\n", Target("bob.office", 443)),
    ("http v6", HttpConnect, b"CONNECT [fd07::5]:443 HTTP/1.1\r\n\r\n", Target(V6, 443)),
    (
        "http user",
        HttpConnect,
        b"CONNECT bob:443 HTTP/1.0\r\nproxy-authorization: basic " + BASIC + b"\r\n\r\n",
        Target("bob", 443, "office"),
    ),
]
REFUSED = [
    (Socks5, b"\5\1\1", b"\5\xff"),  # GSSAPI alone
    (Socks5, b"\5\1\0\5\2\0\1\x0a\7\0\5\0\x50", b"\5\7"),  # BIND
    (Socks5, b"\5\1\0\5\3\0\1\x0a\7\0\5\0\x50", b"\5\7"),  # UDP ASSOCIATE
    (Socks5, b"\5\1\0\5\1\0\5\x0a\7\0\5\0\x50", b"\5\x08"),  # an address of no kind
    (Socks5, b"\5\1\0\5\1\0\3\1 \0\x50", b"\5\x08"),
    (Socks5, b"\5\1\2\2\1a\0", b"\1\1"),
    (HttpConnect, b"GET http://10.7.0.5/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
    (HttpConnect, b"CONNECT bob HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
    (HttpConnect, b"CONNECT bob:0 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
    (HttpConnect, b"CONNECT b/b:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
    (HttpConnect, b"\x16\x03\x01", b"HTTP/1.1 400"),  # TLS
    (HttpConnect, b"\x04\x01", b"HTTP/1.1 400"),  # SOCKS4
    (HttpConnect, b"CONNECT bob:80 HTTP/1.1\r\nProxy-Authorization: Digest x\r\n\r\n", b"HTTP/1.1 400"),
    (HttpConnect, b"C" * (HEAD_MAX + 1), b"HTTP/1.1 431"),
]


@pytest.mark.parametrize(
    ("make", "wire", "target"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS]
)
def test_a_request_is_understood_in_any_slices(make: Callable[[], Negotiation], wire: bytes, target: Target) -> None:
    whole, slowly = make(), make()
    said = whole.receive_untrusted(wire + b"early")
    assert (whole.target, whole.rest) == (target, b"early")
    assert b"".join(slowly.receive_untrusted(bytes([byte])) for byte in wire) == said
    assert (slowly.target, slowly.rest) == (target, b"")


@pytest.mark.parametrize(("make", "wire", "last_words"), REFUSED)
def test_what_is_not_served_is_told_so(make: Callable[[], Negotiation], wire: bytes, last_words: bytes) -> None:
    negotiation = make()
    with pytest.raises(BadMessage):
        negotiation.receive_untrusted(wire)
    assert negotiation.last_words.startswith(last_words)
    assert negotiation.target is None


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_an_answer(outcome: Outcome) -> None:
    assert Socks5().answer(outcome) == bytes((5, outcome.socks, 0, 1)) + bytes(6)
    assert HttpConnect().answer(outcome).startswith(f"HTTP/1.1 {outcome.http} ".encode())


@given(st.sampled_from(REQUESTS), st.data())
def test_a_flipped_request_is_another_or_none(
    case: tuple[str, Callable[[], Negotiation], bytes, Target], data: st.DataObject
) -> None:
    _, make, wire, _ = case
    flipped = bytearray(wire)
    bit = data.draw(st.integers(0, len(wire) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(BadMessage):
        make().receive_untrusted(bytes(flipped))


@given(st.sampled_from((Socks5, HttpConnect)), st.binary(max_size=600))
@example(HttpConnect, "CONNECT b:\u00b2 HTTP/1.1\r\n\r\n".encode("latin-1"))
def test_any_bytes_are_a_request_or_bad(make: Callable[[], Negotiation], wire: bytes) -> None:
    with contextlib.suppress(BadMessage):
        make().receive_untrusted(wire)
