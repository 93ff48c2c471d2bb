"""The twin of the C engine in plain Python: the oracle of its tests, and the data plane where no compiler is present."""

from kairos_dataplane.pure.engine import PureEngine

__all__ = ["PureEngine"]
