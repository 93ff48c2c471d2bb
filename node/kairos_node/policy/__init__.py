"""Policy decisions in this process: a signed bundle in, verdicts out."""

from kairos_node.policy.engine import Engine

__all__ = ["Engine"]
