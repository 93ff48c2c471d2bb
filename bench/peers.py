"""What the data plane is measured against: the bare veth pair, two WireGuards in user space, nebula and OpenVPN.

Go and Cargo build theirs at the first run, at the versions below. One that cannot be had raises Absent.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.link import Absent, Link, namespaces, running, wait_for
from two_hosts import sh

_TOOLS = Path(__file__).parents[1] / ".tools"
_GO = {
    "wireguard": "golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446",
    "nebula": "github.com/slackhq/nebula/cmd/nebula@v1.11.0",
    "nebula-cert": "github.com/slackhq/nebula/cmd/nebula-cert@v1.11.0",
}
_CARGO = {"boringtun-cli": "boringtun-cli@0.7.1"}
_MTU, _WIREGUARD_MTU = 1380, 1420


@contextmanager
def raw() -> Iterator[Link]:
    """No tunnel at all: what the veth pair and this machine can do."""
    with namespaces("raw") as (a, b):
        yield Link(a, b, "10.78.0.2", "under0")


@contextmanager
def wireguard_go() -> Iterator[Link]:
    with _wireguard("wg", _built("wireguard"), "-f") as link:
        yield link


@contextmanager
def boringtun() -> Iterator[Link]:
    """With its own choice of threads and queues."""
    with _wireguard("bt", _built("boringtun-cli"), "--foreground", "--disable-drop-privileges") as link:
        yield link


@contextmanager
def _wireguard(tag: str, *command: str) -> Iterator[Link]:
    """command: a WireGuard that makes the device named by the last argument and is configured through its socket."""
    with ExitStack() as stack:
        names = stack.enter_context(namespaces(tag))
        keys = [X25519PrivateKey.generate() for _ in names]
        devices = [f"kb{tag}{side}{os.getpid()}" for side in "ab"]
        pids = [
            stack.enter_context(running(name, *command, device)) for name, device in zip(names, devices, strict=True)
        ]
        for side, (name, device) in enumerate(zip(names, devices, strict=True)):
            control = f"/var/run/wireguard/{device}.sock"
            wait_for(lambda control=control: os.path.exists(control), f"{device} did not come up")  # type: ignore[misc]
            _configure(control, keys[side], keys[1 - side], 2 - side)
            sh(f"ip -n {name} addr add 10.77.0.{side + 1}/24 dev {device}")
            sh(f"ip -n {name} link set {device} up mtu {_WIREGUARD_MTU}")
        link = Link(*names, "10.77.0.2", "under0", ((pids[0],), (pids[1],)))
        wait_for(link.is_up, f"{command[0]} did not come up")
        yield link


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
            raise RuntimeError(f"{control} refused its configuration: {answer!r}")


@contextmanager
def nebula() -> Iterator[Link]:
    """AES-256-GCM, our MTU, everything allowed, no lighthouse."""
    program, signer = _built("nebula"), _built("nebula-cert")
    with ExitStack() as stack:
        names = stack.enter_context(namespaces("nb"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run((signer, "ca", "-name", "bench"), cwd=folder, check=True)
        pids = []
        for number, name in enumerate(names, 1):
            files = f"-out-crt {name}.crt -out-key {name}.key"
            sh(f"cd {folder} && {signer} sign -name {name} -ip 10.77.0.{number}/24 {files}")
            config = folder / f"{name}.yml"
            config.write_text(json.dumps(_nebula_config(folder / name, 3 - number)))  # YAML holds JSON
            pids.append(stack.enter_context(running(name, program, "-config", str(config))))
        link = Link(*names, "10.77.0.2", "under0", ((pids[0],), (pids[1],)))
        wait_for(link.is_up, "nebula did not come up")
        yield link


def _nebula_config(own: Path, peer: int) -> dict[str, Any]:
    anything = [{"port": "any", "proto": "any", "host": "any"}]
    return {
        "pki": {"ca": str(own.parent / "ca.crt"), "cert": f"{own}.crt", "key": f"{own}.key"},
        "static_host_map": {f"10.77.0.{peer}": [f"10.78.0.{peer}:4242"]},
        "lighthouse": {"am_lighthouse": False, "hosts": []},
        "listen": {"host": "0.0.0.0", "port": 4242},
        "tun": {"dev": "nebula0", "mtu": _MTU},
        "cipher": "aes",
        "firewall": {"inbound": anything, "outbound": anything},
    }


@contextmanager
def openvpn() -> Iterator[Link]:
    """AES-256-GCM over UDP, our MTU, TLS with certificates of its own, in user space: without the kernel's module."""
    program = shutil.which("openvpn")
    if program is None:
        raise Absent("not installed: apt install openvpn")
    with ExitStack() as stack:
        names = stack.enter_context(namespaces("ov"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prints = [_openvpn_certificate(folder / name) for name in names]
        pids = []
        for side, name in enumerate(names):
            config = folder / f"{name}.conf"
            config.write_text(_openvpn_config(folder / name, side, prints[1 - side]))
            pids.append(stack.enter_context(running(name, program, "--config", str(config))))
        link = Link(*names, "10.77.0.2", "under0", ((pids[0],), (pids[1],)))
        wait_for(link.is_up, "openvpn did not come up")
        yield link


def _openvpn_certificate(own: Path) -> str:
    """Makes OWN.crt and OWN.key, self-signed; the certificate's SHA-256 fingerprint."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    plain = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    own.with_name(f"{own.name}.key").write_bytes(key.private_bytes(*plain))
    own.with_name(f"{own.name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate.fingerprint(hashes.SHA256()).hex(":")


def _openvpn_config(own: Path, side: int, peer_print: str) -> str:
    role = "tls-server\ndh none" if side == 0 else "tls-client"
    return f"""\
dev tun
proto udp
remote 10.78.0.{2 - side}
ifconfig 10.77.0.{side + 1} 10.77.0.{2 - side}
{role}
cert {own}.crt
key {own}.key
peer-fingerprint {peer_print}
cipher AES-256-GCM
data-ciphers AES-256-GCM
disable-dco
tun-mtu {_MTU}
"""


def _built(name: str) -> str:
    """The program of a peer, built at the first time. Raises Absent."""
    program = _TOOLS / "bin" / name
    if not program.exists():
        if name in _GO:
            _build(name, "golang-go", ("go", "install", _GO[name]), GOBIN=str(program.parent))
        else:
            _build(name, "cargo", ("cargo", "install", "-q", "--locked", "--root", str(_TOOLS), _CARGO[name]))
    return str(program)


def _build(name: str, package: str, command: tuple[str, ...], **environment: str) -> None:
    if shutil.which(command[0]) is None:
        raise Absent(f"{command[0]} builds {name}, which is not here: apt install {package}")
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Absent(f"`{' '.join(command)}` failed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}")
