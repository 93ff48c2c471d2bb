"""The data plane: packets in C, decisions in Python. `load()` gives the engine; `engine` holds its typed face."""

from __future__ import annotations

import logging

from kairos_dataplane.engine import (
    Address,
    ControlReceived,
    Dataplane,
    End,
    Event,
    Flow,
    FlowOpened,
    Mapping,
    Offences,
    PathKind,
    PathMoved,
    RelayReady,
    SessionKey,
    TunFailing,
    Verdict,
)

__all__ = [
    "Address",
    "ControlReceived",
    "Dataplane",
    "End",
    "Event",
    "Flow",
    "FlowOpened",
    "Mapping",
    "Offences",
    "PathKind",
    "PathMoved",
    "RelayReady",
    "SessionKey",
    "TunFailing",
    "Verdict",
    "load",
]

_log = logging.getLogger(__name__)


def load(prefer: str = "auto", aead: str = "auto", max_flows: int = 1 << 20) -> Dataplane:
    """The C engine, or the pure-Python twin where there is no extension (`prefer`: auto, c, pure).

    Raises RuntimeError when `c` was asked for and cannot be had.
    """
    if prefer not in ("auto", "c", "pure"):
        raise RuntimeError(f"data plane {prefer!r} is none of auto, c, pure")
    if prefer != "pure":
        try:
            from kairos_dataplane.native import NativeEngine
        except ImportError as error:
            if prefer == "c":
                raise RuntimeError(f"the C data plane was not built: {error}") from None
        else:
            return NativeEngine(aead, max_flows)
    if prefer == "auto":
        _log.warning("the C data plane was not built: packets go through Python, which works and is slow")
    from kairos_dataplane.pure import PureEngine

    return PureEngine(max_flows)
