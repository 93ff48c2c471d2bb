"""Runs a command as systemd would run it by one of the shipped units, as far as that can be done without systemd as init.

Real: the capability bounding set and the ambient set, no-new-privileges, the filter of system calls (as seccomp, made of what
systemd-analyze says is in each set), the limit on core dumps. Left out: mounts, devices, address families and namespaces.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNITS = {
    "agent": ROOT / "agent/kairos_agent/kairos-agent.service",
    "gateway": ROOT / "gateway/kairos_gateway/kairos-gateway.service",
}
NUMBERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
_AUDIT_ARCH_X86_64 = 0xC000003E
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38


def missing() -> str:
    """What this needs and this machine has not; empty: nothing."""
    if os.geteuid() != 0 or platform.machine() != "x86_64":
        return "root on x86_64"
    lacking = [name for name in ("setpriv", "systemd-analyze") if shutil.which(name) is None]
    return ", ".join([*lacking, *([] if NUMBERS.exists() else [str(NUMBERS)])])


def settings(unit: str) -> dict[str, list[str]]:
    """The words behind each key of a unit, of all of its lines."""
    found: dict[str, list[str]] = {}
    for line in UNITS[unit].read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).extend(value.split())
    return found


def run_under(
    unit: str, script: str, *arguments: str, apart: bool = False, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """A Python script, in this interpreter's environment. apart: in a network namespace of its own."""
    said = settings(unit)
    bounding = ",".join(["-all", *_plus(said["CapabilityBoundingSet"])])
    ambient = ",".join(_plus(said["AmbientCapabilities"]))
    names = ",".join(sorted(allowed_calls(said["SystemCallFilter"])))
    return subprocess.run(
        (
            *(("unshare", "--net") if apart else ()), "setpriv", "--bounding-set", bounding, "--inh-caps", ambient, "--ambient-caps", ambient,
            sys.executable, __file__, names, script, *arguments,
        ),
        capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def allowed_calls(words: list[str]) -> set[str]:
    """Names of system calls, with those of the sets (`@system-service`) that systemd knows."""
    listed = subprocess.run(("systemd-analyze", "syscall-filter"), capture_output=True, text=True, check=True).stdout
    sets: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            current.append(line.strip())
    found, unread = set[str](), list(words)
    while unread:
        word = unread.pop()
        if word.startswith("@"):
            unread += sets[word]
        else:
            found.add(word)
    return found


def _plus(capabilities: list[str]) -> list[str]:
    return [f"+{each.removeprefix('CAP_').lower()}" for each in capabilities]


def _filter(names: set[str]) -> bytes:
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", NUMBERS.read_text()))
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT_ARCH_X86_64), (_RETURN, 0, 0, _EPERM), (_LOAD, 0, 0, 0)]
    for number in sorted(int(numbers[name]) for name in names if name in numbers):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code.append((_RETURN, 0, 0, _EPERM))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _enter(names: set[str]) -> None:
    code = _filter(names)
    instructions = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(code) // 8, ctypes.addressof(instructions))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}")


if __name__ == "__main__":
    _enter(set(sys.argv[1].split(",")))
    os.execv(sys.executable, (sys.executable, "-c", *sys.argv[2:]))
