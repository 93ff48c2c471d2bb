"""What of the host's own network its VNIs must leave alone: asked of the kernel's routes and the resolver's configuration."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from kairos_agent.config_bounds import HostNetworks
from kairos_dataplane.engine import Network

Address = IPv4Address | IPv6Address
_OURS = ("kairos", "lo")  # interfaces by the beginning of their name
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_UP, _GATEWAY = 0x1, 0x2  # RTF_UP, RTF_GATEWAY (linux/route.h)
_LOOKUP_S, _LOOKUP_EVERY_S = 0.5, 60.0  # a tunnel waits for it
_MULTICAST = IPv6Network("ff00::/8")


class HostNetworksReader:
    """fabric_url: where the control plane is; its addresses as they were known last stay when the resolver is down."""

    def __init__(self, fabric_url: str) -> None:
        self._fabric = urlsplit(fabric_url)
        self._fabric_addresses: frozenset[Address] = frozenset()
        self._look_up_at = 0.0  # by the event loop

    async def read(self, relays: Iterable[Address]) -> HostNetworks:
        """relays: the addresses of those in use. Cannot fail: what cannot be read is left out."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._look_up_at:
            self._look_up_at = loop.time() + _LOOKUP_EVERY_S
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_LOOKUP_S):
                    found = await loop.getaddrinfo(
                        self._fabric.hostname, self._fabric.port or 443, type=socket.SOCK_STREAM
                    )
                self._fabric_addresses = frozenset(ip_address(each[4][0]) for each in found)
        resolvers = [each for path in _RESOLVERS for each in resolvers_of(_text(path))]
        return HostNetworks(
            frozenset(lans_of(_text(Path("/proc/net/route")), _text(Path("/proc/net/ipv6_route")))),
            self._fabric_addresses | frozenset(each for each in resolvers if not each.is_loopback) | frozenset(relays),
        )


def lans_of(routes4: str, routes6: str) -> Iterator[Network]:
    """The networks that interfaces are on, out of /proc/net/route and /proc/net/ipv6_route."""
    for line in routes4.splitlines()[1:]:
        interface, network, _, flags, _, _, _, mask, *_ = line.split()
        if _is_lan(interface, int(flags, 16)) and int(mask, 16):
            yield ip_network(f"{_address4(network)}/{_address4(mask)}")
    for line in routes6.splitlines():
        network, length, *_, flags, interface = line.split()
        found = ip_network((bytes.fromhex(network), int(length, 16)))
        if _is_lan(interface, int(flags, 16)) and found.prefixlen and not found.overlaps(_MULTICAST):
            yield found


def resolvers_of(text: str) -> Iterator[Address]:
    """The name servers of a resolv.conf."""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with suppress(ValueError):
                yield ip_address(words[1].partition("%")[0])


def _is_lan(interface: str, flags: int) -> bool:
    return flags & (_UP | _GATEWAY) == _UP and not interface.startswith(_OURS)


def _address4(text: str) -> IPv4Address:
    """As the kernel prints it: the bytes of the address as a number of this machine's byte order, which is little-endian."""
    return IPv4Address(int(text, 16).to_bytes(4, "little"))


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""
