"""What a policy answers, on its way to the fabric: in words that the fabric takes."""

from __future__ import annotations

from kairos.api.bounds import RULE_MAX, TEXT_MAX
from kairos.api.push import AdmissionVerdict, encode, parse_to_fabric_untrusted
from kairos_node.policy.engine import decision_of


def test_a_policy_that_says_too_much_is_cut_to_what_the_fabric_takes() -> None:
    decision = decision_of({"allow": False, "rule": "r" * 5_000, "reason": "why" * 5_000}, {})
    assert (len(decision.rule), len(decision.reason)) == (RULE_MAX, TEXT_MAX)
    verdict = AdmissionVerdict("id", "deny", decision.rule, decision.reason, b"")
    assert parse_to_fabric_untrusted(encode(verdict)) == verdict
