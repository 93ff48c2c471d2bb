"""The gateway's configuration file (docs/config.md)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kairos.constants import REKEY_AFTER_S


class UplinkConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The way out of one VNI, by name. interface: of this host, which the VNI gets for itself, or with vlan that VLAN on it;
    addresses: the gateway's there, `192.168.60.1/24`."""

    vni: str
    mode: Literal["nat", "routed", "none"]
    interface: str = ""
    vlan: Annotated[int, msgspec.Meta(ge=0, le=4094)] = 0
    addresses: list[str] = []


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Every key is optional."""

    listen: str = "[::]:7843"
    advertise: list[str] = []
    masquerade: bool = True
    routed: list[str] = []
    uplink: list[UplinkConfig] = []
    isolate: Literal["overlap", "netns"] = "overlap"
    rekey_after_s: Annotated[float, msgspec.Meta(gt=0, le=REKEY_AFTER_S)] = float(REKEY_AFTER_S)
    provider: Literal["cryptography", "oqs"] = "cryptography"
    dataplane: Literal["auto", "c", "pure"] = "auto"
    aead: Literal["auto", "ipsec-mb", "openssl"] = "auto"
    engine: Literal["embedded", "opa"] = "embedded"
    opa: str = "opa"
    budget_ms: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    metrics: str = ""
    log: Literal["debug", "info", "warning", "error"] = "info"
