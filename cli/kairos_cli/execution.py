"""`kairos exec`: a program inside a VNI that has a network namespace of its own."""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
from typing import NoReturn

from kairos.errors import Refused
from kairos_cli.node import ask_agent
from kairos_node.namespace import Namespace

_CLONE_NEWNET, _CLONE_NEWNS = 0x4000_0000, 0x2_0000
_MS_REC, _MS_SLAVE = 0x4000, 0x8_0000
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare came with Python 3.12


def run(options: argparse.Namespace) -> NoReturn:
    """Becomes that program: with its signals, its exit status, and as the user who typed `sudo`."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise Refused("bad-request", "name a program: kairos exec VNI -- PROGRAM ...")
    if os.geteuid():
        raise Refused(
            "not-allowed", "entering a network namespace takes root: sudo kairos exec ...; the program runs as you"
        )
    status = ask_agent(options, "status")
    _enter(Namespace.path(_namespace_of(status, options.vni), status["pid"]))
    _become(os.environ.get("SUDO_USER", ""))
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise Refused("bad-request", f"{command[0]}: no such program") from None


def _namespace_of(status: dict[str, object], wanted: str) -> str:
    vnis = status["vnis"]
    assert isinstance(vnis, list)
    for vni in vnis:
        if wanted in (vni["name"], str(vni["vni"])):
            if vni["namespace"]:
                return str(vni["namespace"])
            raise Refused(
                "not-isolated", f'{wanted} has no namespace; set isolate = "netns" in agent.toml and restart the agent'
            )
    known = ", ".join(str(vni["name"]) for vni in vnis) or "none"
    raise Refused("not-found", f"this device is not in VNI {wanted}; it is in: {known}")


def _enter(path: str) -> None:
    """/sys shows that namespace's interfaces from then on, and only to us. Raises OSError."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.setns(there, _CLONE_NEWNET), "entering the namespace")
    os.close(there)
    _checked(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _checked(_libc.mount(b"", b"/", b"none", _MS_SLAVE | _MS_REC, None), "mounts of our own")
    _checked(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "/sys")


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _become(user: str) -> None:
    if user and user != "root":
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
