"""What a policy decision point answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict of one decision point.

    rule: stable id of the rule that decided (`grant:web`, `deny:default`); reason: one sentence for a person;
    hold: admission only, wait for the operator; expires_at: RFC 3339 time at which an allow ends by itself.
    """

    allow: bool
    rule: str
    reason: str
    log: bool = True
    hold: bool = False
    expires_at: str | None = None


def deny(reason: str, rule: str = "deny:error") -> Decision:
    """The answer on any doubt."""
    return Decision(allow=False, rule=rule, reason=reason)
