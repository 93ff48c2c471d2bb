"""Every parser of bytes from elsewhere returns, or raises BadMessage, whatever the bytes are."""

from __future__ import annotations

import ast
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kairos.api import push, relay
from kairos.api.enrollment import Challenge
from kairos.api.push import SessionNotice
from kairos.constants import BUNDLE_MAX
from kairos.crypto.suites import KR1
from kairos.errors import BadMessage
from kairos.identity.admin_credential import AdminCredential, parse_admin_credential_untrusted
from kairos.identity.certificate import ca_to_be_signed, certificate, parse_certificate_untrusted
from kairos.identity.join_token import JoinToken, parse_join_token_untrusted
from kairos.identity.signed_request import Proof, parse_proof_untrusted
from kairos.identity.spiffe import SpiffeId, parse_spiffe_untrusted
from kairos.protocol.enrollment import parse_challenge_untrusted
from kairos.protocol.path_mtu import limit_told_untrusted
from kairos.wire import control, datagram, frame
from kairos.wire.claim import FlowClaim
from kairos_agent.answers import parse_query_untrusted
from kairos_agent.proxy.http_connect import HttpConnect
from kairos_agent.proxy.negotiation import host_untrusted
from kairos_agent.proxy.socks import Socks5
from kairos_dataplane.pure.packet import parse_untrusted
from kairos_dataplane.pure.segments import records_untrusted, whole_untrusted
from kairos_node.local_api import parse_request_untrusted
from kairos_node.policy.bundle import unpack_untrusted

ROOT = Path(__file__).parents[2]
KEY = bytes(KR1.signature_public_key)
Parser = Callable[[bytes], Any]


def text(parser: Callable[[str], Any]) -> Parser:
    """A parser of text, which may hold any character, also half a surrogate pair."""
    return lambda data: parser(data.decode("utf-8", "surrogateescape"))


def frame_header(data: bytes) -> Any:
    return frame.parse_frame_header_untrusted(data, len(data))


def bundle(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


BUNDLE = bundle(
    data_json=b'{"grants": []}', policy_wasm=b"\0asm", rules_rego=b"package kairos", _manifest=b'{"metadata": {}}'
)
TCP = bytes.fromhex("450000280000000040060000 0a070005 0a070009 9c4001bb 00000000 00000000 50020000 00000000")
CLAIM = FlowClaim(6, ip_address("10.7.0.5"), 40_112, ip_address("fd07::9"), 443, 3, "grants:web", None)

PARSERS: dict[str, tuple[Parser, bytes]] = {
    "parse_proof_untrusted": (text(parse_proof_untrusted), str(Proof(1_800_000_000, bytes(16), bytes(3309))).encode()),
    "parse_spiffe_untrusted": (
        text(parse_spiffe_untrusted), str(SpiffeId("kairos.test", "acme", "endpoint", "ep-a")).encode(),
    ),
    "parse_certificate_untrusted": (
        parse_certificate_untrusted,
        certificate(
            KR1, ca_to_be_signed(KR1, "r", KEY, "r", KEY, b"s" * 16, 0, 2**33, 1), bytes(KR1.signature_bytes)
        ),
    ),
    "parse_join_token_untrusted": (
        text(parse_join_token_untrusted),
        str(JoinToken("https://f", "d.test", "KR1", "acme", "gateway", "t", bytes(32), bytes(32), bytes(32))).encode(),
    ),
    "parse_admin_credential_untrusted": (
        text(parse_admin_credential_untrusted), str(AdminCredential("0" * 16, bytes(32))).encode(),
    ),
    "parse_challenge_untrusted": (
        parse_challenge_untrusted, msgspec.json.encode(Challenge("0" * 32, bytes(32), 1_800_000_000)),
    ),
    "limit_told_untrusted": (limit_told_untrusted, bytes.fromhex("00000001ffff05780000")),
    "parse_open_untrusted": (relay.parse_open_untrusted, b'{"type":"open","node":"ep-a","session":"s"}'),
    "parse_opened_untrusted": (relay.parse_opened_untrusted, b'{"type":"opened","gateway":"gw-a"}'),
    "parse_close_untrusted": (relay.parse_close_untrusted, relay.encode(relay.Close("code", "reason"))),
    "parse_to_node_untrusted": (
        push.parse_to_node_untrusted, push.encode(SessionNotice("s-1", "ep-a", [1], 1, {"os": {"a": [1]}})).encode(),
    ),
    "parse_to_fabric_untrusted": (push.parse_to_fabric_untrusted, b'{"type":"receipt","point":"relay"}'),
    "parse_frame_header_untrusted": (frame_header, frame.encode(frame.FrameType.STREAM, 5, b"payload")),
    "parse_credit_untrusted": (frame.parse_credit_untrusted, bytes(4)),
    "parse_header_untrusted": (
        datagram.parse_header_untrusted, datagram.DatagramHeader(datagram.DatagramType.DATA, 1, 2, 3).pack() + bytes(16),
    ),
    "parse_message_untrusted": (
        control.parse_message_untrusted,
        control.encode(control.Config(9, (control.VniConfig(7, "a", 1, 1380, ("::/0",), (), "x"),), ("h:1",)))[4:],
    ),
    "feed_untrusted": (lambda data: list(control.MessageStream().feed_untrusted(data)), control.encode(control.Ready(1)) * 3),
    "FlowClaim.parse_untrusted": (FlowClaim.parse_untrusted, CLAIM.pack()),
    "parse_query_untrusted": (parse_query_untrusted, dns.message.make_query("bob.lan", "A", use_edns=0).to_wire()),
    "parse_request_untrusted": (parse_request_untrusted, b'{"verb": "status", "of": [{}]}'),
    "unpack_untrusted": (lambda data: unpack_untrusted(gzip.compress(data, 1)), BUNDLE),
    "unpack_untrusted (gzip)": (unpack_untrusted, gzip.compress(BUNDLE)),
    "Socks5": (lambda data: Socks5().receive_untrusted(data), b"\5\1\2\1\6office\0\5\1\0\3\3bob\1\xbb"),
    "HttpConnect": (
        lambda data: HttpConnect().receive_untrusted(data),
        b"CONNECT [fd07::1]:443 HTTP/1.1\r\nProxy-Authorization: Basic b2ZmaWNlOg==\r\n\r\n",
    ),
    "host_untrusted": (host_untrusted, b"[fd07::1%eth0]"),
    "parse_untrusted": (parse_untrusted, TCP),
    "parse_untrusted (quoted)": (lambda data: parse_untrusted(data, quoted=True), TCP),
    "whole_untrusted": (whole_untrusted, b"payload" + TCP + struct.pack("!BBHHH", 2, 40, 7, 0, 1)),
    "records_untrusted": (lambda data: list(records_untrusted(data)), b"\0\3abc\0\0\0\1x"),
}  # fmt: skip

HOSTILE = [
    b"9" * 5000,
    b"[" * 5000,
    b'{"a":' * 5000,
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"1e999",
    b"-0",
    b"NaN",
    "٣".encode(),
    b"%",
    b"\0" * 600,
    b"\x80" + b"\xff" * 11,
]
pieces = st.binary(max_size=12) | st.sampled_from(HOSTILE)
cuts = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), pieces), max_size=3)


@pytest.mark.parametrize("name", PARSERS)
@given(changes=cuts)
@example(changes=[(0.0, 100_000, b"")])
@example(changes=[(1.0, 0, b"\0")])
def test_it_returns_or_says_bad_message(name: str, changes: list[tuple[float, int, bytes]]) -> None:
    parser, data = PARSERS[name]
    for place, removed, put in changes:
        at = int(place * len(data))
        data = data[:at] + put + data[at + removed :]
    try:
        parser(data)
    except BadMessage:
        return


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_alone_and_in_json(name: str, hostile: bytes) -> None:
    parser, seed = PARSERS[name]
    documents = [hostile, hostile * 20]
    if seed.startswith(b"{"):
        documents += [
            json.dumps({**json.loads(seed), key: "?"}).encode().replace(b'"?"', hostile) for key in json.loads(seed)
        ]
        documents.append(seed[:-1] + b',"unknown":' + hostile + b"}")
    for document in documents:
        try:
            parser(document)
        except BadMessage:
            continue


def test_a_super_packet_beyond_the_size_of_packets_is_a_bad_message() -> None:
    with pytest.raises(BadMessage, match="DATA of 65568 bytes"):
        whole_untrusted(bytes(65_520) + TCP + struct.pack("!BBHHH", 2, 40, 65_520, 0, 1))


def test_no_parser_is_left_out() -> None:
    known = {name.partition(" ")[0].rpartition(".")[2] for name in PARSERS}
    for folder in ("kairos", "node", "agent", "gateway", "dataplane"):
        for path in (ROOT / folder).rglob("*.py"):
            for each in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(each, ast.FunctionDef)
                    and each.name.endswith("_untrusted")
                    and each.name.startswith("parse")
                ):
                    assert each.name in known, f"{path}: {each.name}"


# -- what a tar archive can say of its sizes ---------------------------------------------------------------------------


def with_header(tar: bytes, at: int, value: bytes) -> bytes:
    """The first header with another field, and the checksum that fits it."""
    header = bytearray(tar[:512])
    header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar[512:]


SIZE, TYPE = 124, 156


@pytest.mark.parametrize(
    "size",
    [
        b"\x80" + b"\xff" * 11,  # base 256: larger than any offset of a file
        b"\x80" + bytes(7) + b"\xff" * 4,
        b"\xff" * 12,  # base 256: -1
        b"\xff" + b"\0" * 11,
        b"77777777777\0",
        b"99999999999\0",
        b"           \0",
        bytes(12),
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"1", b"5", b"x", b"g", b"L", b"K", b"S", b"V", b"\xff"])
def test_a_bundle_whose_sizes_lie_is_a_bad_message(size: bytes, kind: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack_untrusted(gzip.compress(with_header(with_header(BUNDLE, SIZE, size), TYPE, kind)))


@given(at=st.integers(0, 147) | st.integers(156, 511), value=st.binary(min_size=1, max_size=12))
def test_a_bundle_with_another_header_is_a_bundle_or_a_bad_message(at: int, value: bytes) -> None:
    try:
        unpack_untrusted(gzip.compress(with_header(BUNDLE, at, value[: 512 - at]), 1))
    except BadMessage:
        return


@pytest.mark.parametrize(
    "name", ["GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.major", "size", "mtime"]
)
@pytest.mark.parametrize("value", ["-1", "9" * 30, "9" * 5000, "1,2,3", "0," + "9" * 25, "x", ""])
def test_extended_headers_that_lie_are_a_bad_message_or_nothing(name: str, value: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("data.json")
        member.size, member.pax_headers = 2, {name: value}
        archive.addfile(member, io.BytesIO(b"{}"))
    try:
        read = unpack_untrusted(gzip.compress(packed.getvalue() + BUNDLE))
    except BadMessage:
        return
    assert len(read.data) <= BUNDLE_MAX
