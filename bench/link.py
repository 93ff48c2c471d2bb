"""A tunnel between two network namespaces, each side's processes, and what they spend.

a 10.77.0.1 ==== tunnel ==== 10.77.0.2 b          under it: a 10.78.0.1 ---- veth ---- 10.78.0.2 b
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.processes import process_cpu_seconds, resident_bytes
from two_hosts import sh

_READY_S = 20.0
_MB = 1_000_000


class Absent(Exception):
    """A peer that this machine does not have; says what to install."""


@dataclass(frozen=True)
class Link:
    """A tunnel that is up. address: b's inside it; veth: the device under it, by the same name at both ends; processes: what
    carries it, at a and at b, nothing where the kernel does."""

    a: str
    b: str
    address: str
    veth: str
    processes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def on_a(self, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return sh(f"ip netns exec {self.a} {command}", check=False, timeout=timeout)

    def start_on_b(self, command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            f"exec ip netns exec {self.b} {command}", shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far, at a and at b."""
        at_a, at_b = (sum(map(process_cpu_seconds, side)) for side in self.processes)
        return at_a, at_b

    def resident_mb(self) -> tuple[float, float]:
        at_a, at_b = (sum(map(resident_bytes, side)) / _MB for side in self.processes)
        return at_a, at_b

    def is_up(self) -> bool:
        return self.on_a(f"ping -c 1 -W 1 {self.address}").returncode == 0


@contextmanager
def namespaces(tag: str) -> Iterator[tuple[str, str]]:
    """Two namespaces with the veth pair `under0` and its addresses."""
    a, b = f"kb{tag}-a-{os.getpid()}", f"kb{tag}-b-{os.getpid()}"
    try:
        for name in (a, b):
            sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(f"ip link add under0 netns {a} type veth peer name under0 netns {b}")
        for number, name in enumerate((a, b), 1):
            sh(f"ip -n {name} addr add 10.78.0.{number}/24 dev under0 && ip -n {name} link set under0 up")
        yield a, b
    finally:
        for name in (a, b):
            sh(f"ip netns del {name}", check=False)


@contextmanager
def running(namespace: str, *command: str) -> Iterator[int]:
    """The process id of a program that runs there until the end of the block."""
    process = subprocess.Popen(
        ("ip", "netns", "exec", namespace, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for(ready: Callable[[], bool], otherwise: str) -> None:
    """Raises RuntimeError(otherwise) after twenty seconds."""
    deadline = time.monotonic() + _READY_S
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.02)
