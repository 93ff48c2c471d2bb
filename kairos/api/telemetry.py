"""How a node is doing, minute by minute: what it says of itself, for people who look after it. No decision depends on it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kairos.api.bounds import Count, Measure, Name, Some, Text, Whole

UPLINKS_MAX = 32  # that one sample tells


class UplinkReport(msgspec.Struct):
    """A VNI's way out, as gateway.toml has it. mode: nat, routed or none; interface: of the gateway's host, `eth1` or `eth1.30` for a
    VLAN on it; state: `up`, or why not."""

    vni: Name
    mode: Name
    interface: Name
    state: Text


class Sample(msgspec.Struct):
    """Since the sample before. relay, direct: established tunnels by path; rates in bytes a second; drops: by the data plane's
    names, without `drop_`, those above 0; decision_ms, handshake_ms: the mean; cpu: cores that the daemon kept busy; memory_bytes:
    what it holds; uplinks: a gateway's, as they are now."""

    relay: Count
    direct: Count
    tx_bytes_per_s: Measure
    rx_bytes_per_s: Measure
    drops: Annotated[dict[Name, Count], Some]
    decisions: Count
    decision_ms: Measure
    handshakes: Count
    handshake_ms: Measure
    policy_version: Whole
    version: Name
    cpu: Measure = 0.0
    memory_bytes: Count = 0
    uplinks: Annotated[list[UplinkReport], Meta(max_length=UPLINKS_MAX)] = []


class SampleRecord(msgspec.Struct):
    """The newest of a node; at: when the fabric got it, Unix seconds."""

    node: str
    at: int
    sample: Sample


class Measured(msgspec.Struct):
    """A sample on its way through the queue. at: when the fabric got it."""

    tenant: str
    node: str
    at: int
    sample: Sample


class TelemetryRecord(msgspec.Struct):
    """A node's minute, or an hour of it (`at`: when it began): means, for drops, decisions and handshakes sums, and the highest of the
    minutes for `_max` and memory."""

    node: str
    at: int
    samples: int
    relay: float
    direct: float
    tx_bytes_per_s: float
    rx_bytes_per_s: float
    drops: dict[str, int]
    decisions: int
    decision_ms: float
    decision_ms_max: float
    handshakes: int
    handshake_ms: float
    handshake_ms_max: float
    cpu: float
    memory_bytes: int
