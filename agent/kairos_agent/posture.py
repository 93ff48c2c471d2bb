"""What this device can say of its own state. Whoever reads it knows that the device itself said it.

A fact that cannot be found out is left out, and a grant that requires it does not apply.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackagePath, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import kairos

_OS_RELEASE = Path("/etc/os-release")
_MOUNTS = Path("/proc/self/mountinfo")
_DEVICES = Path("/sys/dev/block")
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_EFI = Path("/sys/firmware/efi")
_SSHD = Path("/etc/ssh/sshd_config")
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_ASK_S = 5.0
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized


def collect() -> dict[str, Any]:
    """os, os_version, kernel, agent, agent_sha256: text; agent_intact, disk_encrypted, firewall, secure_boot, ssh_passwords,
    time_synced: yes or no."""
    release = _os_release()
    facts: dict[str, Any] = {
        "os": release.get("ID", platform.system().lower()),
        "os_version": release.get("VERSION_ID", ""),
        "kernel": platform.release(),
        "agent": kairos.__version__,
        "agent_sha256": _agent_sha256(),
    }
    questions: dict[str, Callable[[], bool | None]] = {
        "agent_intact": _agent_intact,
        "disk_encrypted": _disk_encrypted,
        "firewall": _firewall,
        "secure_boot": _secure_boot,
        "ssh_passwords": _ssh_passwords,
        "time_synced": _time_synced,
    }
    return facts | {name: answer for name, ask in questions.items() if (answer := _asked(ask)) is not None}


def _asked(ask: Callable[[], bool | None]) -> bool | None:
    try:
        return ask()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _os_release() -> dict[str, str]:
    try:
        lines = _OS_RELEASE.read_text(errors="replace").splitlines()
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


def _agent_intact() -> bool | None:
    """Every file of the installed package is the one that was installed (RECORD). None: it runs from a source tree."""
    listed = [file for file in distribution("kairos-red").files or () if file.hash is not None and file.suffix == ".py"]
    if not any(file.name == "posture.py" for file in listed):
        return None
    return all(_is_recorded(file) for file in listed)


def _is_recorded(file: PackagePath) -> bool:
    assert file.hash is not None
    path = Path(str(file.locate()))
    digest = hashlib.new(file.hash.mode, path.read_bytes()).digest() if path.exists() else b""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value


def _disk_encrypted() -> bool | None:
    """The root file system lies on dm-crypt, at whatever depth: the kernel names such a device `CRYPT-...` in its uuid.
    None: it lies on no disk of its own, as in a container."""
    source = next(fields[fields.index("-") + 2] for fields in _mounts() if fields[4] == "/")
    if not source.startswith("/dev/"):
        return None
    device = os.stat(source).st_rdev
    return _on_crypt(_DEVICES / f"{os.major(device)}:{os.minor(device)}")


def _mounts() -> list[list[str]]:
    """proc(5), mountinfo; of two mounts in one place the later one is seen."""
    return [line.split() for line in reversed(_MOUNTS.read_text().splitlines())]


def _on_crypt(device: Path) -> bool:
    uuid = device / "dm/uuid"
    if uuid.exists() and uuid.read_text().startswith("CRYPT-"):
        return True
    below = list((device / "slaves").glob("*"))
    return bool(below) and all(_on_crypt(each) for each in below)


def _firewall() -> bool | None:
    """Something stands before what arrives here: a chain on the input hook that drops by default, or a rule in it. Chains of our own
    do not count. None: nft(8) is not there or may not look."""
    done = subprocess.run(
        (shutil.which("nft", path=_SBIN) or "nft", "-j", "list", "ruleset"),
        capture_output=True,
        timeout=_ASK_S,
        check=True,
    )
    items = [item for item in json.loads(done.stdout)["nftables"] if not _is_ours(item)]
    inputs = [chain for item in items if (chain := item.get("chain")) and chain.get("hook") == "input"]
    guarded = {(chain["family"], chain["table"], chain["name"]) for chain in inputs}
    rules = {(rule["family"], rule["table"], rule["chain"]) for item in items if (rule := item.get("rule"))}
    return any(chain.get("policy") == "drop" for chain in inputs) or bool(guarded & rules)


def _is_ours(item: dict[str, Any]) -> bool:
    return any(str(each.get("table", "")).startswith("kairos") for each in item.values())


def _secure_boot() -> bool | None:
    """The firmware's own variable; its last byte is the answer."""
    variable = _EFI / "efivars" / _SECURE_BOOT
    return variable.read_bytes()[-1] == 1 if _EFI.exists() else False


def _ssh_passwords() -> bool:
    """sshd lets people in with a password: that is its default, and no sshd lets nobody in."""
    if not _SSHD.exists():
        return False
    answers = [re.search(r"(?im)^\s*PasswordAuthentication\s+(\w+)", text) for text in _sshd_configuration()]
    first = next((answer[1].lower() for answer in answers if answer), "yes")  # sshd takes the first it reads
    return first != "no"


def _sshd_configuration() -> list[str]:
    """What sshd makes of its files; where it does not say (it wants its host keys), the files in the order that it reads them."""
    try:
        done = subprocess.run(
            (shutil.which("sshd", path=_SBIN) or "sshd", "-T"), capture_output=True, timeout=_ASK_S, check=True
        )
        return [done.stdout.decode(errors="replace")]
    except (OSError, subprocess.SubprocessError):
        files = [*sorted(_SSHD.with_suffix(".d").glob("*.conf")), _SSHD]
        return [path.read_text(errors="replace") for path in files]


def _time_synced() -> bool:
    """adjtimex(2) with nothing to adjust tells the state of the clock."""
    request = ctypes.create_string_buffer(256)  # struct timex is smaller; modes is its first field, 0
    return ctypes.CDLL(None, use_errno=True).adjtimex(request) not in (-1, _TIME_ERROR)
