"""The payload of a CLAIM: whole, cut, extended, flipped. Accepted or BadMessage, nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.errors import BadMessage
from kairos.policy.input import Application
from kairos.wire.claim import FlowClaim
from kairos.wire.datagram import CONTROL_PAYLOAD_MAX

PORTS = st.integers(0, 65_535)
APPLICATIONS = st.builds(
    Application,
    path=st.text(max_size=60),
    uid=st.integers(0, 2**32 - 1),
    unit=st.text(max_size=60),
    sha256=st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex),
)
CLAIMS = st.builds(
    FlowClaim,
    protocol=st.integers(0, 255),
    src=st.ip_addresses(),
    src_port=PORTS,
    dst=st.ip_addresses(),
    dst_port=PORTS,
    policy_version=st.integers(0, 2**64 - 1),
    rule=st.text(max_size=60),
    app=st.none() | APPLICATIONS,
)


@given(CLAIMS)
def test_a_claim_survives_the_wire(claim: FlowClaim) -> None:
    assert FlowClaim.parse_untrusted(claim.pack()) == claim


@given(CLAIMS, st.data())
def test_what_is_no_claim_is_bad(claim: FlowClaim, data: st.DataObject) -> None:
    payload = claim.pack()
    with pytest.raises(BadMessage):
        FlowClaim.parse_untrusted(payload[: data.draw(st.integers(0, len(payload) - 1))])
    with pytest.raises(BadMessage):
        FlowClaim.parse_untrusted(payload + b"\0")
    flipped = bytearray(payload)
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(BadMessage):
        FlowClaim.parse_untrusted(bytes(flipped))


@given(st.binary(max_size=200))
def test_nonsense_is_no_claim(payload: bytes) -> None:
    with contextlib.suppress(BadMessage):
        FlowClaim.parse_untrusted(payload)


@given(CLAIMS, st.text(min_size=100))
def test_a_claim_always_fits_its_datagram(claim: FlowClaim, text: str) -> None:
    long = FlowClaim(
        claim.protocol, claim.src, 1, claim.dst, 2, 3, text * 9, Application(text * 9, 0, text * 9, "ab" * 32)
    )
    assert len(long.pack()) <= CONTROL_PAYLOAD_MAX
    assert FlowClaim.parse_untrusted(long.pack()).app == Application("", 0, "", "ab" * 32)
