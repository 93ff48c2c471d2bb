"""The way over an interconnect from one party to another, for `kairos why`: which VNIs, and what each end is called where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from kairos.api.admin import InterconnectRecord, MemberRecord
from kairos_cli.admin import AdminClient, at

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class End:
    """node: empty for an address that none holds. seen: what the other VNI calls `address`."""

    node: str
    address: Address
    seen: Address


@dataclass(frozen=True)
class Way:
    """From VNI `here` to VNI `there`, by name."""

    here: str
    there: str
    source: End
    destination: End


def find_way(admin: AdminClient, tenant: str, source: str, destination: str) -> Way | None:
    """source: a node. destination: a node, or an address as the source's VNI calls it."""
    for joined in admin.pages(at(tenant, "interconnects"), InterconnectRecord):
        for here, there in ((joined.a, joined.b), (joined.b, joined.a)):
            sources = [end for end in _ends(admin, tenant, joined, here) if end.node == source]
            for end in _ends(admin, tenant, joined, there):
                for begins in sources:
                    asked = destination in (end.node, str(end.seen))
                    if asked and begins.address.version == end.address.version:
                        return Way(here, there, begins, end)
    return None


def _ends(admin: AdminClient, tenant: str, joined: InterconnectRecord, vni: str) -> Iterator[End]:
    """The members of this VNI that have names in the other one."""
    for member in admin.pages(at(tenant, "vnis", vni, "members"), MemberRecord):
        for address in (ip_address(text.partition("/")[0]) for text in member.addresses):
            for name in joined.maps:
                prefix, seen = ip_network(name.prefix), ip_network(name.seen)
                if name.vni == vni and address in prefix:
                    yield End(member.node, address, seen.network_address + (int(address) & int(prefix.hostmask)))
