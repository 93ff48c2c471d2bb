"""Which addresses one subscriber has: an IPv4 address, or the /64 of an IPv6 address and perhaps the /48 around it."""

from __future__ import annotations

import ipaddress


def subscriber_prefix(address: str) -> str:
    """The IPv4 address, or the /64 of an IPv6 address. Text that is no address is returned as it is."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return _network(parsed, 64)
    return str(parsed or address)


def site_prefix(address: str) -> str:
    """The /48 of an IPv6 address; empty for everything else."""
    parsed = _parsed(address)
    return _network(parsed, 48) if isinstance(parsed, ipaddress.IPv6Address) else ""


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4-mapped IPv6 address is the IPv4 address. None: it is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _network(address: ipaddress.IPv6Address, length: int) -> str:
    return str(ipaddress.IPv6Network((int(address) >> (128 - length) << (128 - length), length)))
