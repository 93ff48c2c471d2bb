"""What the pure core makes of fixed inputs: run by CPython and, inside workerd, by Pyodide (tests/in_worker/test_core.py)."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from kairos.api.enrollment import Challenge, EnrollRequest
from kairos.api.push import SessionNotice, encode
from kairos.crypto import schedule
from kairos.crypto.schedule import Direction
from kairos.crypto.suites import SUITES
from kairos.errors import BadMessage
from kairos.identity import transcript
from kairos.identity.certificate import ca_to_be_signed, certificate, parse_certificate_untrusted
from kairos.identity.join_token import JoinToken, parse_join_token_untrusted
from kairos.identity.signed_request import Proof, parse_proof_untrusted
from kairos.identity.spiffe import node_id, parse_spiffe_untrusted
from kairos.protocol.enrollment import parse_challenge_untrusted
from kairos.wire import control, datagram, frame


def report() -> dict[str, Any]:
    """JSON of results and digests, part by part."""
    return {
        "keys": _keys(),
        "certificates": [_certificate(name) for name in SUITES],
        "wire": _wire(),
        "names": _names(),
        "api": _api(),
        "refused": _refused(),
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _keys() -> list[str]:
    first = schedule.first_epoch(b"x" * 48, b"k" * 32, b"t" * 48)
    second = schedule.next_epoch(first, b"l" * 32, b"u" * 48)
    return [
        epoch.vni_key(vni, direction).key.hex()
        for epoch in (first, second)
        for vni in (1, 16_777_215)
        for direction in Direction
    ]


def _certificate(suite_name: str) -> dict[str, Any]:
    suite = SUITES[suite_name]
    key = bytes(suite.signature_public_key)
    tbs = ca_to_be_signed(suite, "root", key, "root", key, b"s" * 16, 1_800_000_000, 1_900_000_000, 1)
    der = certificate(suite, tbs, bytes(suite.signature_bytes))
    parsed = parse_certificate_untrusted(der)
    return {"der": _digest(der), "serial": parsed.serial, "not_after": parsed.not_after, "suite": parsed.suite.name}


def _wire() -> dict[str, str]:
    vni = control.VniConfig(7, "office", 107, 1380, ("10.7.0.5/24", "fd07::5/64"), ("10.0.0.0/8",), "corp")
    messages: list[control.Message] = [
        control.Hello("s-1", "oqs", "1"),
        control.KemOffer(3, b"key", b"signature"),
        control.Config(9, (vni,), ("192.0.2.1:7843",)),
        control.Close("revoked", "gone"),
    ]
    for message in messages:
        assert control.parse_message_untrusted(control.encode(message)[4:]) == message
    header = datagram.DatagramHeader(datagram.DatagramType.DATA, 1, 2, 3).pack()
    return {
        "control": _digest(b"".join(map(control.encode, messages))),
        "frame": frame.encode(frame.FrameType.STREAM, 5, b"payload").hex(),
        "datagram": header.hex(),
        "nonce": datagram.nonce(bytes(range(12)), 1 << 40).hex(),
    }


def _names() -> dict[str, str]:
    token = JoinToken("https://f", "kairos.test", "KR1", "acme", "gateway", "t1", b"s" * 32, b"r" * 32, b"p" * 32)
    assert parse_join_token_untrusted(str(token)) == token
    proof = Proof(1_800_000_000, b"n" * 16, b"s" * 3309)
    assert parse_proof_untrusted(str(proof)) == proof
    return {
        "token": _digest(str(token).encode()),
        "proof": _digest(str(proof).encode()),
        "node": node_id("endpoint", b"public key"),
        "spiffe": str(parse_spiffe_untrusted("spiffe://kairos.test/tenant/acme/device/ep-a")),
        "request": transcript.signed_request("GET", "/v1/x?y=1", 1_800_000_000, b"n" * 16, b"body").hex(),
    }


def _api() -> list[str]:
    request = EnrollRequest("KR1", "endpoint", "t1", b"secret", b"key", "läptop", {"os": "debian", "n": 1.5})
    challenge = msgspec.json.encode(Challenge("0" * 32, bytes(32), 1_800_000_000))
    parse_challenge_untrusted(challenge)
    return [
        _digest(msgspec.json.encode(request)),
        _digest(challenge),
        encode(SessionNotice("s-1", "ep-a", [1, 2], 1_800_000_300, {"os": "debian"})),
    ]


def _refused() -> list[str]:
    words = []
    for parse, text in (
        (parse_join_token_untrusted, "kairos-join-1.####"),
        (parse_proof_untrusted, "ts=1"),
        (parse_spiffe_untrusted, "spiffe://a/b"),
    ):
        try:
            parse(text)
        except BadMessage as error:
            words.append(str(error))
    return words
