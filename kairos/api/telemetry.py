"""How a node is doing, minute by minute: what it says of itself, for people who look after it. No decision depends on it."""

from __future__ import annotations

import msgspec


class Sample(msgspec.Struct):
    """Since the sample before. relay, direct: established tunnels by path; rates in bytes a second; drops: by the data plane's
    names, without `drop_`, those above 0; decision_ms, handshake_ms: the mean."""

    relay: int
    direct: int
    tx_bytes_per_s: float
    rx_bytes_per_s: float
    drops: dict[str, int]
    decisions: int
    decision_ms: float
    handshakes: int
    handshake_ms: float
    policy_version: int
    version: str


class SampleRecord(msgspec.Struct):
    """The newest of a node; at: when the fabric got it, Unix seconds."""

    node: str
    at: int
    sample: Sample
