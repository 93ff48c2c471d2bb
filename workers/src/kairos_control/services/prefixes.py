"""Checks networks: those of a VNI, those behind a node, and those of an interconnect; and finds which of many
overlap."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from ..problems import problem

Network = IPv4Network | IPv6Network

PREFIXES_MAX = 64
"""Prefixes of one VNI. Each member has an address in every prefix, and a tunnel's CONFIG carries them all."""

# Addresses that no host has, or that mean something else on every host (RFC 6890 and the IANA special-purpose
# registries).
_SPECIAL: tuple[tuple[Network, str], ...] = (
    (IPv4Network("0.0.0.0/8"), "this network"),
    (IPv4Network("127.0.0.0/8"), "loopback"),
    (IPv4Network("169.254.0.0/16"), "link-local"),
    (IPv4Network("224.0.0.0/4"), "multicast"),
    (IPv4Network("240.0.0.0/4"), "reserved"),
    (IPv6Network("::/96"), "loopback, unspecified or an IPv4-compatible network"),
    (IPv6Network("::ffff:0:0/96"), "an IPv4-mapped network"),
    (IPv6Network("fe80::/10"), "link-local"),
    (IPv6Network("ff00::/8"), "multicast"),
)


def segment_prefix(text: str) -> Network:
    """A network whose addresses members of a VNI may have, or that stands for another VNI's addresses there.

    It overlaps no special network. Raises invalid.
    """
    network = _network(text)
    for special, name in _SPECIAL:
        if _overlap(network, special):
            raise problem("invalid", f"{network} overlaps {special}, which is {name}")
    return network


def route_prefix(text: str) -> Network:
    """A network that a node may lead to. It may be wider than a special network, as an exit route is, but does not
    lie in one. Raises invalid."""
    network = _network(text)
    for special, name in _SPECIAL:
        if _overlap(network, special) and network.prefixlen >= special.prefixlen:
            raise problem("invalid", f"{network} lies in {special}, which is {name}")
    return network


def refuse_overlaps(networks: Iterable[Network]) -> None:
    """Raises invalid where two of them share an address."""
    held: Network | None = None
    for network in sorted(networks, key=_order):
        if held is not None and _overlap(network, held):  # in this order, a network overlaps the one before it or none
            raise problem("invalid", f"{held} and {network} overlap")
        held = network


class NetworkSet:
    """Networks to compare others with. One comparison takes the time of a binary search, however many there are."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = sorted(set(networks), key=_order)
        self._keys = [_order(network) for network in self._networks]
        self._by_key = dict(zip(self._keys, self._networks, strict=True))

    def within(self, network: Network) -> Network | None:
        """One that is `network` or lies in it."""
        at = bisect_left(self._keys, _order(network))
        following = self._networks[at] if at < len(self._networks) else None
        return following if following is not None and _overlap(network, following) else None

    def around(self, network: Network) -> Network | None:
        """One that is `network` or that it lies in."""
        version, first, length = _order(network)
        for shorter in range(length, -1, -1):
            bits = network.max_prefixlen - shorter
            found = self._by_key.get((version, first >> bits << bits, shorter))
            if found is not None:
                return found
        return None

    def overlapping(self, network: Network) -> Network | None:
        """One that shares an address with `network`."""
        return self.within(network) or self.around(network)


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise problem("invalid", f"not a network: {error}") from None
    if "%" in text:
        raise problem("invalid", f"{text} names an interface of a host")
    return network


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)
