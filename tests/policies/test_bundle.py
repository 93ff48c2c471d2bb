"""What comes as a policy bundle: only the operator's signature makes it one, and whatever fails is deny."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos.api.session import PolicyRecord
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.errors import BadMessage, KairosError, Refused
from kairos.identity import transcript
from kairos.policy.input import flow_input
from kairos_cli.policy import compile_bundle
from kairos_node.crypto import provider_named
from kairos_node.policy import Engine
from kairos_node.policy.bundle import Bundle, unpack_untrusted, verify_untrusted

POLICIES = Path(__file__).parents[2] / "policies"
PROVIDER = provider_named("cryptography")
KEY = PROVIDER.signing_key(KR1, bytes(32))


SLOW_RULE = """package kairos.egress

decision := {"allow": true, "rule": "slow", "reason": ""} if {
	input.gateway == "slow"
	count({x | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); x := a * b}) > 1
} else := {"allow": true, "rule": "quick", "reason": ""}
"""


def record(bundle: bytes, tenant: str = "acme", version: int = 3, seed: bytes = bytes(32)) -> PolicyRecord:
    key = PROVIDER.signing_key(KR1, seed)
    signature = key.sign(transcript.policy_bundle(tenant, version, bundle), labels.POLICY_BUNDLE)
    return PolicyRecord(tenant, version, hashlib.sha384(bundle).digest(), signature)


def load(bundle: bytes, described: PolicyRecord, current_version: int = 0) -> Engine:
    verify_untrusted(
        bundle,
        described,
        provider=PROVIDER,
        suite=KR1,
        policy_key=KEY.public_key,
        tenant="acme",
        current_version=current_version,
    )
    return Engine(unpack_untrusted(bundle), described.version, described.sha384)


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return compile_bundle(POLICIES, POLICIES / "grants.json")


def test_a_signed_bundle_is_in_force(bundle: bytes) -> None:
    engine = load(bundle, record(bundle))
    assert engine.version == 3
    assert engine.decide("admission", {"device": {"role": "gateway", "tags": []}}).hold


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tenant": "rival"}, "wrong-tenant"),
        ({"version": 1}, "policy-stale"),
        ({"version": 2}, "policy-stale"),
        ({"seed": bytes(range(32))}, "policy-unsigned"),
    ],
)
def test_a_foreign_older_or_unsigned_bundle_is_refused(bundle: bytes, change: dict[str, object], code: str) -> None:
    with pytest.raises(Refused) as refused:
        load(bundle, record(bundle, **change), current_version=2)  # type: ignore[arg-type]
    assert refused.value.code == code


def test_an_altered_bundle_is_refused(bundle: bytes) -> None:
    altered = bytearray(bundle)
    altered[len(altered) // 2] ^= 1
    with pytest.raises(Refused, match="not those that were signed"):
        load(bytes(altered), record(bundle))


def test_a_record_with_another_version_is_refused(bundle: bytes) -> None:
    signed = record(bundle)
    with pytest.raises(Refused, match="not signed"):
        load(bundle, PolicyRecord("acme", 9, signed.sha384, signed.signature))


@settings(max_examples=60)
@given(st.binary(max_size=400))
def test_nonsense_is_no_bundle(data: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack_untrusted(data)


@settings(max_examples=25)
@given(place=st.integers(0, 1 << 24))
def test_a_flipped_bit_is_another_bundle_or_none(bundle: bytes, place: int) -> None:
    """Below the signature there is only BadMessage, whatever the bytes are."""
    flipped = bytearray(bundle)
    bit = place % (len(flipped) * 8)
    flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(BadMessage):
        Engine(unpack_untrusted(bytes(flipped)), 1, b"")


def test_a_module_that_is_no_policy_is_refused() -> None:
    with pytest.raises(BadMessage):
        Engine(Bundle(b"\0asm\1\0\0\0", b"{}"), 1, b"")


def test_an_undefined_or_unknown_decision_is_deny(bundle: bytes) -> None:
    engine = load(bundle, record(bundle))
    assert engine.decide("nonsense", {}).allow is False
    assert engine.decide("egress", {}).allow is False


def test_a_policy_that_nodes_cannot_run_is_not_compiled(tmp_path: Path) -> None:
    """A decision must follow from its input: the engine has no clock to offer."""
    for point in ("admission", "session", "egress", "ingress", "interconnect"):
        rule = f"package kairos.{point}\n\ndecision := {{'allow': time.now_ns() > 0}}\n".replace("'", '"')
        (tmp_path / f"{point}.rego").write_text(rule)
    with pytest.raises(KairosError, match=r"time\.now_ns"):
        compile_bundle(tmp_path, POLICIES / "grants.json")


def test_a_policy_over_its_budget_is_deny_and_the_next_decision_works(tmp_path: Path) -> None:
    for path in POLICIES.glob("*.rego"):
        if not path.stem.endswith("_test"):
            (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "egress.rego").write_text(SLOW_RULE)
    grants = tmp_path / "grants.json"
    grants.write_text(json.dumps({}))
    engine = Engine(unpack_untrusted(compile_bundle(tmp_path, grants)), 1, b"")
    assert engine.decide("egress", {"gateway": "slow"}).rule == "deny:policy-failed"
    assert engine.decide("egress", {"gateway": ""}).rule == "quick"


def test_an_allow_ends_when_a_window_of_its_grant_closes_or_one_of_a_deny_opens(tmp_path: Path) -> None:
    grants = tmp_path / "grants.json"
    web = {"id": "web", "from": ["*"], "to": ["*"], "ports": ["tcp/80-81"]}
    hours = {"days": ["wed"], "from": "09:00", "to": "17:00", "zone": "+01:00"}
    upkeep = {**web, "id": "upkeep", "ports": ["tcp/81"], "when": [{"days": ["wed"], "from": "12:30", "to": "13:00"}]}
    grants.write_text(json.dumps({"allow": [{**web, "when": [hours]}], "deny": [upkeep]}))
    engine = Engine(unpack_untrusted(compile_bundle(POLICIES, grants)), 1, b"")

    def decided(port: int, now: str) -> tuple[bool, str | None]:
        document = flow_input(
            "egress", now=now, tenant="acme", vni=1, vni_name="office", device=None, peer=None,
            source=("10.7.0.2", 40_000), destination=("10.7.0.3", port), protocol=6, gateway="",
        )  # fmt: skip
        decision = engine.decide("egress", document)
        return decision.allow, decision.expires_at

    assert decided(80, "2026-11-25T12:10:45Z") == (True, "2026-11-25T16:00:00Z")
    assert decided(81, "2026-11-25T12:10:45Z") == (True, "2026-11-25T12:30:00Z")
    assert decided(81, "2026-11-25T12:30:00Z") == (False, None)
    assert decided(80, "2026-11-25T16:00:00Z") == (False, None)
    assert decided(80, "2026-11-25T07:59:59Z") == (False, None)
