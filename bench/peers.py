"""The tunnels that are measured side by side: each joins two network namespaces over a veth pair of its own.

a 10.77.0.1 ==== tunnel ==== 10.77.0.2 b          under it: a 10.78.0.1 ---- veth ---- 10.78.0.2 b
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kairos_dataplane import load
from two_hosts import sh, two_hosts

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".tools/bin"
# Built by Go at the first run: program -> package at its version.
_BUILT = {
    "wireguard": "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446",
    "nebula": "github.com/slackhq/nebula/cmd/nebula@v1.11.0",
    "nebula-cert": "github.com/slackhq/nebula/cmd/nebula-cert@v1.11.0",
}
_READY_S = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Link:
    """A tunnel that is up. cpu_s: CPU seconds its processes have used, both ends together. veth: the device under it."""

    a: str
    b: str
    address: str
    veth: str
    cpu_s: Callable[[], float]

    def on_a(self, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return sh(f"ip netns exec {self.a} {command}", check=False, timeout=timeout)

    def start_on_b(self, command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            f"exec ip netns exec {self.b} {command}", shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


@contextmanager
def _namespaces(tag: str) -> Iterator[tuple[str, str]]:
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
def raw() -> Iterator[Link]:
    """No tunnel at all: what the veth pair and this machine can do."""
    with _namespaces("raw") as (a, b):
        yield Link(a, b, "10.78.0.2", "under0", lambda: 0.0)


@contextmanager
def kairos(aead: str) -> Iterator[Link]:
    """Two C engines in this process, UDP straight between them, every flow judged once."""
    with two_hosts(lambda: load("c", aead), tag=aead[:1]) as (a, b):
        yield Link(a.name, b.name, b.address(), "kdv0", time.process_time)


@contextmanager
def wireguard_go() -> Iterator[Link]:
    program = _program("wireguard")
    with ExitStack() as stack:
        names = stack.enter_context(_namespaces("wg"))
        keys = [X25519PrivateKey.generate() for _ in names]
        devices = [f"kbwg{side}{os.getpid()}" for side in "ab"]
        processes = [
            stack.enter_context(_running(name, program, "-f", device))
            for name, device in zip(names, devices, strict=True)
        ]
        for side, (name, device) in enumerate(zip(names, devices, strict=True)):
            control = f"/var/run/wireguard/{device}.sock"
            _wait(lambda control=control: os.path.exists(control), f"{device} did not come up")  # type: ignore[misc]
            _configure(control, keys[side], keys[1 - side], 2 - side)
            sh(f"ip -n {name} addr add 10.77.0.{side + 1}/24 dev {device}; ip -n {name} link set {device} up mtu 1420")
        yield Link(*names, "10.77.0.2", "under0", lambda: sum(_cpu_s(process.pid) for process in processes))


def _program(name: str) -> str:
    """The program of a peer, built at the first time."""
    program = TOOLS / name
    if not program.exists():
        if shutil.which("go") is None:
            raise SystemExit(f"bench dataplane: Go builds {name}, a peer: install it (apt install golang-go)")
        subprocess.run(("go", "install", _BUILT[name]), env={**os.environ, "GOBIN": str(TOOLS)}, check=True)
    return str(program)


@contextmanager
def _running(namespace: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ("ip", "netns", "exec", namespace, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _configure(control: str, own: X25519PrivateKey, peer: X25519PrivateKey, peer_number: int) -> None:
    """WireGuard's cross-platform configuration protocol (wireguard.com/xplatform)."""
    lines = (
        "set=1",
        f"private_key={own.private_bytes_raw().hex()}",
        "listen_port=51820",
        f"public_key={peer.public_key().public_bytes_raw().hex()}",
        f"endpoint=10.78.0.{peer_number}:51820",
        "allowed_ip=10.77.0.0/24",
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(control)
        connection.sendall(("\n".join(lines) + "\n\n").encode())
        if b"errno=0" not in (answer := connection.recv(4096)):
            raise RuntimeError(f"wireguard-go refused its configuration: {answer!r}")


@contextmanager
def nebula() -> Iterator[Link]:
    """AES-256-GCM, our MTU, everything allowed, no lighthouse."""
    program, signer = _program("nebula"), _program("nebula-cert")
    with ExitStack() as stack:
        names = stack.enter_context(_namespaces("nb"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run((signer, "ca", "-name", "bench"), cwd=folder, check=True)
        processes = []
        for number, name in enumerate(names, 1):
            sign = (
                "sign",
                "-name",
                name,
                "-ip",
                f"10.77.0.{number}/24",
                "-out-crt",
                f"{name}.crt",
                "-out-key",
                f"{name}.key",
            )
            subprocess.run((signer, *sign), cwd=folder, check=True)
            (folder / f"{name}.yml").write_text(
                json.dumps(_nebula_config(folder / name, 3 - number))
            )  # YAML holds JSON
            process = stack.enter_context(_running(name, program, "-config", str(folder / f"{name}.yml")))
            processes.append(process)
        link = Link(*names, "10.77.0.2", "under0", lambda: sum(_cpu_s(process.pid) for process in processes))
        _wait(lambda: link.on_a("ping -c 1 -W 1 10.77.0.2").returncode == 0, "nebula did not come up")
        yield link


def _nebula_config(own: Path, peer: int) -> dict[str, Any]:
    anything = [{"port": "any", "proto": "any", "host": "any"}]
    return {
        "pki": {"ca": str(own.parent / "ca.crt"), "cert": f"{own}.crt", "key": f"{own}.key"},
        "static_host_map": {f"10.77.0.{peer}": [f"10.78.0.{peer}:4242"]},
        "lighthouse": {"am_lighthouse": False, "hosts": []},
        "listen": {"host": "0.0.0.0", "port": 4242},
        "tun": {"dev": "nebula0", "mtu": 1380},
        "cipher": "aes",
        "firewall": {"inbound": anything, "outbound": anything},
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _wait(ready: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.02)
