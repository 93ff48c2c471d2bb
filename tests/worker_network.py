"""A network of its own for each worker of pytest-xdist: what two of them listen on and what they call their interfaces and network
namespaces cannot meet. There is loopback in it and no way out."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEW_NET, _NEW_MOUNTS = 0x4000_0000, 0x0002_0000  # CLONE_NEWNET and CLONE_NEWNS of <sched.h>
_LIBC = ctypes.CDLL(None, use_errno=True)
_machine: int | None = None


def enter() -> None:
    """Moves the calling thread, and what it starts, into a new network namespace with an empty /run/netns. Does nothing without root: tests
    that need a network of their own need root as well. Raises OSError."""
    global _machine
    if os.geteuid() != 0:
        return
    _machine = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _call("unshare", _NEW_NET | _NEW_MOUNTS)
    Path("/run/netns").mkdir(exist_ok=True)
    for command in (
        "mount --make-rprivate /",
        "mount -t tmpfs netns /run/netns",
        "mount -t sysfs sysfs /sys",  # it shows the interfaces of the namespace that it was mounted in
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)


@contextmanager
def of_the_machine() -> Iterator[None]:
    """The block runs in the machine's own network, for what asks a package registry."""
    if _machine is None:
        yield
        return
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    _call("setns", _machine, _NEW_NET)
    try:
        yield
    finally:
        _call("setns", own, _NEW_NET)
        os.close(own)


def _call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
