"""Policy decisions: a signed bundle in, verdicts out."""

from kairos_node.policy.choice import Choice
from kairos_node.policy.engine import Engine, PolicyEngine

__all__ = ["Choice", "Engine", "PolicyEngine"]
