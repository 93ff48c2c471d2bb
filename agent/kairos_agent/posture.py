"""What this device can say of its own state. Whoever reads it knows that the device itself said it.

A fact that cannot be found out is left out, and a grant that requires it does not apply.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import kairos

_OS_RELEASE = Path("/etc/os-release")
_BLOCK = Path("/sys/block")
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_EFI = Path("/sys/firmware/efi")
_SSHD = Path("/etc/ssh/sshd_config")
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized


def collect() -> dict[str, Any]:
    """os, os_version, kernel, agent, agent_sha256: text; disk_encrypted, secure_boot, ssh_passwords, time_synced: yes or no."""
    release = _os_release()
    facts: dict[str, Any] = {
        "os": release.get("ID", platform.system().lower()),
        "os_version": release.get("VERSION_ID", ""),
        "kernel": platform.release(),
        "agent": kairos.__version__,
        "agent_sha256": _agent_sha256(),
    }
    questions: dict[str, Callable[[], bool | None]] = {
        "disk_encrypted": _disk_encrypted,
        "secure_boot": _secure_boot,
        "ssh_passwords": _ssh_passwords,
        "time_synced": _time_synced,
    }
    return facts | {name: answer for name, ask in questions.items() if (answer := _asked(ask)) is not None}


def _asked(ask: Callable[[], bool | None]) -> bool | None:
    try:
        return ask()
    except OSError:
        return None


def _os_release() -> dict[str, str]:
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines) if name}


@cache
def _agent_sha256() -> str:
    """Of this program's own sources, as they were when it started to look."""
    digest = hashlib.sha256()
    for package in ("kairos", "kairos_node", "kairos_agent", "kairos_dataplane"):
        folder = Path(str(files(package)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _disk_encrypted() -> bool:
    """Some dm-crypt device is in use: the kernel names them `CRYPT-...` in their uuid."""
    return any(path.read_text().startswith("CRYPT-") for path in _BLOCK.glob("dm-*/dm/uuid"))


def _secure_boot() -> bool | None:
    """The firmware's own variable; its last byte is the answer."""
    variable = _EFI / "efivars" / _SECURE_BOOT
    return variable.read_bytes()[-1] == 1 if _EFI.exists() else False


def _ssh_passwords() -> bool:
    """sshd lets people in with a password: that is its default, and no sshd lets nobody in."""
    if not _SSHD.exists():
        return False
    configurations = [*sorted(_SSHD.with_suffix(".d").glob("*.conf")), _SSHD]
    answers = [
        re.search(r"(?im)^\s*PasswordAuthentication\s+(\w+)", path.read_text(errors="replace"))
        for path in configurations
    ]
    first = next((answer[1].lower() for answer in answers if answer), "yes")  # sshd takes the first it reads
    return first != "no"


def _time_synced() -> bool:
    """adjtimex(2) with nothing to adjust tells the state of the clock."""
    request = ctypes.create_string_buffer(256)  # struct timex is smaller; modes is its first field, 0
    return ctypes.CDLL(None, use_errno=True).adjtimex(request) not in (-1, _TIME_ERROR)
