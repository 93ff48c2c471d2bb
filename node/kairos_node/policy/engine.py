"""The decision points of a node (design 0005). Whatever goes wrong in here, the answer is deny."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Any

from kairos.api.bounds import RULE_MAX, TEXT_MAX
from kairos.policy.decision import Decision, deny
from kairos_node.policy.bundle import Bundle
from kairos_node.policy.wasm import EXPLAIN_FUEL, FUEL_PER_MS, Instance, PolicyError, compiled

_log = logging.getLogger(__name__)
_PREFIX = "kairos"
_WHY = "kairos/why/grants"


class PolicyEngine(ABC):
    """One bundle in force. `version` and `sha384` go into every event that a decision causes."""

    def __init__(self, bundle: Bundle, version: int, sha384: bytes) -> None:
        self.version = version
        self.sha384 = sha384
        self.reads_source_port = bundle.reads_source_port

    def decide(self, point: str, document: dict[str, Any]) -> Decision:
        """point: admission, session, egress, ingress or interconnect. Never raises."""
        try:
            answer = self._evaluate(f"{_PREFIX}/{point}/decision", document)
        except PolicyError as error:
            _log.warning("policy at %s: %s", point, error)
            return deny(f"the policy failed: {error}", "deny:policy-failed")
        except Exception as error:  # a defect here must not let anything through
            _log.exception("policy at %s", point)
            return deny(f"the policy engine failed: {type(error).__name__}")
        return decision_of(answer, document)

    @property
    def memory_bytes(self) -> int:
        """What the policy holds in this process."""
        return 0

    @abstractmethod
    def explain(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        """What why.rego says of the grants, for a person; empty where the policy has no such rules. Raises PolicyError."""

    @abstractmethod
    def close(self) -> None:
        """Another one is in force."""

    @abstractmethod
    def _evaluate(self, entrypoint: str, document: dict[str, Any]) -> Any:
        """None when it is undefined. Raises PolicyError: it took too long, or broke."""


class Engine(PolicyEngine):
    """The bundle's WebAssembly in this process. Raises BadMessage when it is not a policy that this host can run."""

    def __init__(self, bundle: Bundle, version: int, sha384: bytes, budget_ms: int = 50) -> None:
        super().__init__(bundle, version, sha384)
        self._data = bundle.data
        self._fuel = budget_ms * FUEL_PER_MS
        self._module = compiled(bundle.wasm)
        self._instance: Instance | None = Instance(self._module, bundle.data)

    @property
    def memory_bytes(self) -> int:
        return len(self._data) + (self._instance.memory_bytes if self._instance is not None else 0)

    def close(self) -> None:
        self._instance = None

    def explain(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        instance = Instance(self._module, self._data)
        if _WHY not in instance.entrypoints:
            return []
        told: list[dict[str, Any]] = instance.evaluate(_WHY, json.dumps(document).encode(), EXPLAIN_FUEL) or []
        return told

    def _evaluate(self, entrypoint: str, document: dict[str, Any]) -> Any:
        if self._instance is None:  # the last evaluation trapped: its memory is not to be trusted
            self._instance = Instance(self._module, self._data)
        instance, self._instance = self._instance, None
        answer = instance.evaluate(entrypoint, json.dumps(document).encode(), self._fuel)
        self._instance = instance
        return answer


def decision_of(answer: object, document: dict[str, Any]) -> Decision:
    """Only a well-formed answer that says allow allows. document: what was asked, for an answer may end so many minutes
    after its `now`."""
    if answer is None:
        return deny("the policy does not say", "deny:undefined")
    if not isinstance(answer, dict) or not isinstance(answer.get("allow"), bool):
        return deny("the policy's answer is malformed", "deny:malformed")
    ends = answer.get("expires_at") or None
    if ends is not None and not _is_moment(ends):
        return deny(f"the policy's answer ends at {ends!r}, which is no time in UTC", "deny:malformed")
    left = answer.get("minutes_left") or 0
    if left and (not isinstance(left, int) or "now" not in document):
        return deny(f"the policy's answer ends in {left!r} minutes", "deny:malformed")
    return Decision(
        allow=answer["allow"],
        rule=str(answer.get("rule", ""))[:RULE_MAX] or "unnamed",
        reason=str(answer.get("reason", ""))[:TEXT_MAX],
        log=answer.get("log") is not False,
        hold=answer["allow"] and answer.get("hold") is True,
        expires_at=_earlier(ends, _after(document["now"], left)) if left else ends,
    )


def _after(now: str, minutes: int) -> str:
    """The beginning of the minute that is so many after this one."""
    return (
        (datetime.fromisoformat(now).replace(second=0) + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    )


def _earlier(ends: str | None, other: str) -> str:
    return min((ends or other, other), key=datetime.fromisoformat)


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
