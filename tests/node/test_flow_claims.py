"""Claims wait for their flow, count for the session they came in, and never in the way of anything."""

from __future__ import annotations

from ipaddress import ip_address

from kairos.policy.input import Application
from kairos.wire.claim import FlowClaim
from kairos.wire.datagram import DatagramType
from kairos_dataplane import ControlReceived, Flow, Verdict
from kairos_node.flow_claims import FlowClaims

SRC, DST = ip_address("10.7.0.2"), ip_address("10.7.0.3")
CURL = Application("/usr/bin/curl", 1000, "", "ab" * 32)


def claim(port: int = 40_000) -> FlowClaim:
    return FlowClaim(6, SRC, port, DST, 443, 3, "grant:web", CURL)


def heard(session: int, payload: bytes) -> ControlReceived:
    return ControlReceived(session, DatagramType.CLAIM, payload, None, 0)


def flow(number: int, session: int, port: int = 40_000) -> Flow:
    return Flow(
        id=number, vni=7, session=session, protocol=6, src=SRC, dst=DST, src_port=port, dst_port=443, icmp_type=0,
        tcp_flags=0, verdict=Verdict.PENDING, rule=0, generation=0, packets=(0, 0), bytes=(0, 0), age_s=0.0, idle_s=0.0,
        from_vni=0,
    )  # fmt: skip


def test_a_claim_is_that_of_the_flow_it_names_and_stays_with_it() -> None:
    claims = FlowClaims()
    claims.heard_untrusted(heard(5, claim().pack()))
    assert claims.of(flow(1, 5, 40_001)) is None
    assert claims.of(flow(2, 5)) == claim()
    assert set(claims.flows()) == {2}
    claims.forget(1)
    assert claims.of(flow(2, 5)) == claim()
    claims.forget(2)
    assert claims.of(flow(2, 5)) is None


def test_an_endpoint_claims_of_its_own_flows_alone() -> None:
    claims = FlowClaims()
    claims.heard_untrusted(heard(6, claim().pack()))
    assert claims.of(flow(1, 5)) is None


def test_a_claim_serves_one_flow() -> None:
    claims = FlowClaims()
    claims.heard_untrusted(heard(5, claim().pack()))
    assert claims.of(flow(1, 5)) == claim()
    assert claims.of(flow(2, 5)) is None


def test_what_no_flow_follows_is_forgotten_and_a_flood_pushes_out_the_oldest() -> None:
    claims = FlowClaims()
    claims.heard_untrusted(heard(5, claim().pack()))
    claims.forget_waiting()
    assert claims.of(flow(1, 5)) is None
    for port in range(1, 5001):
        claims.heard_untrusted(heard(5, claim(port).pack()))
    assert claims.of(flow(2, 5, 1)) is None
    assert claims.of(flow(3, 5, 5000)) == claim(5000)


def test_nonsense_is_no_claim() -> None:
    claims = FlowClaims()
    claims.heard_untrusted(heard(5, b"\x06\x00"))
    assert claims.of(flow(1, 5)) is None
