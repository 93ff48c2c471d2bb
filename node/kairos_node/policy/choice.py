"""Which engine decides, as the configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kairos_node.policy.bundle import Bundle
from kairos_node.policy.engine import Engine, PolicyEngine
from kairos_node.policy.opa import OpaEngine

Name = Literal["embedded", "opa"]


@dataclass(frozen=True, slots=True)
class Choice:
    """budget_ms: the longest that a decision may take; opa: the program, for that engine."""

    engine: Name = "embedded"
    budget_ms: int = 50
    opa: str = "opa"

    def load(self, bundle: Bundle, version: int, sha384: bytes) -> PolicyEngine:
        """Raises BadMessage: not a policy that it can run. Takes a while."""
        if self.engine == "opa":
            return OpaEngine(bundle, version, sha384, self.budget_ms, self.opa)
        return Engine(bundle, version, sha384, self.budget_ms)
