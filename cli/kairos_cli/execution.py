"""`kairos exec`: a program inside a VNI that has a network namespace of its own."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from kairos.errors import Refused
from kairos_cli.node import ask_agent
from kairos_node.namespace import Namespace

_CLONE_NEWNET, _CLONE_NEWNS = 0x4000_0000, 0x2_0000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x8_0000
_HOST_RESOLVERS = ("/run/systemd/resolve", "/run/nscd", "/run/avahi-daemon")
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
    vni = _isolated(status, options.vni)
    _enter(Namespace.path(vni["namespace"], status["pid"]))
    _resolve_inside(vni["dns"], vni["dns_suffix"])
    _become(os.environ.get("SUDO_USER", ""))
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise Refused("bad-request", f"{command[0]}: no such program") from None


def _isolated(status: dict[str, Any], wanted: str) -> dict[str, str]:
    """The VNI of that name or number, as `status` shows it."""
    for vni in status["vnis"]:
        if wanted in (vni["name"], str(vni["vni"])):
            if vni["namespace"]:
                return dict(vni)
            raise Refused(
                "not-isolated", f'{wanted} has no namespace; set isolate = "netns" in agent.toml and restart the agent'
            )
    known = ", ".join(vni["name"] for vni in status["vnis"]) or "none"
    raise Refused("not-found", f"this device is not in VNI {wanted}; it is in: {known}")


def _enter(path: str) -> None:
    """/sys shows that namespace's interfaces from then on, and only to us. Raises OSError."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.setns(there, _CLONE_NEWNET), "entering the namespace")
    os.close(there)
    _checked(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _checked(_libc.mount(b"", b"/", b"none", _MS_SLAVE | _MS_REC, None), "mounts of our own")
    _checked(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "/sys")


def _resolve_inside(server: str, suffix: str) -> None:
    """Names are those of the VNI, or none: what asks the host's resolvers over a socket of the file system would carry its
    names out of here. Raises OSError."""
    configuration = os.path.realpath("/etc/resolv.conf")
    for daemon in filter(os.path.isdir, _HOST_RESOLVERS):
        _checked(_libc.mount(b"tmpfs", daemon.encode(), b"tmpfs", 0, b"mode=755"), daemon)
    text = f"nameserver {server}\nsearch {suffix}\n" if server else "# no names here\n"
    if not os.path.exists(configuration):  # it was of such a daemon
        with contextlib.suppress(FileNotFoundError):
            Path(configuration).write_text(text)
        return
    with tempfile.NamedTemporaryFile("w") as file:  # what is mounted needs no name of its own
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        _checked(_libc.mount(file.name.encode(), configuration.encode(), None, _MS_BIND, None), configuration)


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
