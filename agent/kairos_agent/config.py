"""The agent's configuration file (docs/config.md)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kairos.protocol.path import Mode
from kairos_agent.checks import Check


class Posture(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Each `[[posture.check]]` is a fact of this device's posture."""

    check: Annotated[list[Check], msgspec.Meta(max_length=8)] = []


Isolation = Literal["none", "netns"]


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Every key is optional."""

    path: Mode = "auto"
    gateway: str = ""
    listen: str = "[::]:0"
    advertise: dict[str, list[str]] = {}
    masquerade: bool = False
    isolate: Isolation | dict[str, Isolation] = "none"
    dns: Literal["auto", "off"] = "auto"
    dns_suffixes: list[str] = []
    posture: Posture = Posture()
    provider: Literal["cryptography", "oqs"] = "cryptography"
    dataplane: Literal["auto", "c", "pure"] = "auto"
    aead: Literal["auto", "ipsec-mb", "openssl"] = "auto"
    engine: Literal["embedded", "opa"] = "embedded"
    opa: str = "opa"
    budget_ms: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    metrics: str = ""
    log: Literal["debug", "info", "warning", "error"] = "info"

    def isolates(self, vni: str) -> bool:
        """Does the VNI of this name get a network namespace of its own?"""
        return (self.isolate if isinstance(self.isolate, str) else self.isolate.get(vni, "none")) == "netns"
