"""What the command line asks of a proxy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from kairos.errors import Refused


@dataclass(frozen=True, slots=True)
class Listen:
    """idle_s: a stream that is silent for so long is closed; beyond_host: other hosts may come too, and nobody knows who they are."""

    address: IPv4Address | IPv6Address
    port: int
    idle_s: float
    beyond_host: bool = False


def listen_at(text: str, idle_s: float, beyond_host: bool) -> Listen:
    """text: `127.0.0.1:1080`, `[::1]:1080`; port 0: any. Raises Refused."""
    host, _, port = text.rpartition(":")
    try:
        listen = Listen(ip_address(host.strip("[]")), int(port), idle_s, beyond_host)
        if not 0 <= listen.port < 65536:
            raise ValueError("there is no such port")
        if idle_s < 1:
            raise ValueError("--idle is at least a second")
    except ValueError as error:
        raise Refused(
            "bad-request", f"--listen {text}: {error}; write an address and a port, as 127.0.0.1:1080"
        ) from None
    if not listen.address.is_loopback and not beyond_host:
        raise Refused(
            "bad-request",
            f"--listen {text} lets other hosts in, and what they do is done in this device's name; "
            "--let-other-hosts-in, if that is what you want",
        )
    return listen


@dataclass(frozen=True, slots=True)
class Wishes:
    """vnis: names or numbers of those that streams may go into; all when empty. ready: told once where the proxy listens, and
    into which VNIs it leads."""

    listen: Listen
    vnis: frozenset[str]
    ready: Callable[[str, list[str]], None]
