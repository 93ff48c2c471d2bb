"""What this device can say of its own state. Whoever reads it knows that the device itself said it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import kairos

_OS_RELEASE = Path("/etc/os-release")
_BLOCK = Path("/sys/block")


def collect() -> dict[str, Any]:
    """os, os_version, kernel, agent version; disk_encrypted: some device-mapper crypt target is in use."""
    release = _os_release()
    return {
        "os": release.get("ID", platform.system().lower()),
        "os_version": release.get("VERSION_ID", ""),
        "kernel": platform.release(),
        "agent": kairos.__version__,
        "disk_encrypted": _disk_encrypted(),
    }


def _os_release() -> dict[str, str]:
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines) if name}


def _disk_encrypted() -> bool:
    """The kernel names a dm-crypt device `CRYPT-...` in its uuid."""
    try:
        return any(path.read_text().startswith("CRYPT-") for path in _BLOCK.glob("dm-*/dm/uuid"))
    except OSError:
        return False
