"""The tenant's network with the questions that a daemon asks of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network

from kairos.api.session import Crossing, Member, Vni
from kairos.api.session import Network as NetworkRecord
from kairos_dataplane.engine import Mapping, Network

Address = IPv4Address | IPv6Address


class NetworkView:
    """One revision, indexed. Entries that make no sense are left out: the fabric is not trusted to be careful."""

    def __init__(self, record: NetworkRecord) -> None:
        self.record = record
        self.vnis = {vni.vni: vni for vni in record.vnis}
        self.members = {member.node: member for member in record.members}
        self._by_address: dict[tuple[int, Address], str] = {}
        self._addresses: dict[tuple[int, str], tuple[str, ...]] = {}
        for lease in record.leases:
            good = tuple(text for text in lease.addresses if _is_interface(text))
            self._addresses[lease.vni, lease.node] = good
            for text in good:
                self._by_address[lease.vni, ip_interface(text).ip] = lease.node

    def addresses(self, vni: int, node: str) -> tuple[str, ...]:
        """A node's addresses in a VNI, as interface addresses: `10.7.0.5/24`."""
        return self._addresses.get((vni, node), ())

    def holder(self, vni: int, address: Address) -> Member | None:
        """The member that has this address."""
        return self.members.get(self._by_address.get((vni, address), ""))

    def attachment(self, vni: int, address: Address) -> str:
        """The node that leads to this address of no member: through the narrowest route; empty where none does."""
        record = self.vnis.get(vni)
        routes = [(ip_network(r.prefix), r.via) for r in record.routes if _is_network(r.prefix)] if record else []
        leading = [(network.prefixlen, via) for network, via in routes if address in network]
        return max(leading)[1] if leading else ""

    def leases(self, vni: int, node: str) -> set[Network]:
        """What a node may send from: its addresses and the networks behind it. Of a wide one (an exit route) not what leads
        elsewhere: whoever forwards for the world must not speak for the VNI."""
        own: set[Network] = {ip_network(ip_interface(text).ip) for text in self.addresses(vni, node)}
        return own | self.forwarded(vni, node, self.routes_via(vni, node))

    def forwarded(self, vni: int, node: str, routes: set[Network]) -> set[Network]:
        """Of these routes through `node`: who may speak from there."""
        elsewhere = self.reachable(vni, node) if vni in self.vnis else set()
        return set().union(*(_without(route, elsewhere) for route in routes))

    def routes_via(self, vni: int, node: str) -> set[Network]:
        return {ip_network(r.prefix) for r in self.vnis[vni].routes if r.via == node and _is_network(r.prefix)}

    def reachable(self, vni: int, node: str) -> set[Network]:
        """What lies beyond this node: the VNI's prefixes, every route that does not lead to it, and what it sees of others."""
        record = self.vnis[vni]
        prefixes = {ip_network(prefix) for prefix in record.prefixes if _is_network(prefix)}
        routes = {ip_network(r.prefix) for r in record.routes if r.via != node and _is_network(r.prefix)}
        return prefixes | routes | {mapping.seen for mapping in self.mappings(vni)}

    def mappings(self, vni: int) -> list[Mapping]:
        """What this VNI sees of others, over interconnects."""
        record = self.vnis.get(vni)
        good = [each for each in record.crossings if _is_mapping(each)] if record is not None else []
        return [Mapping(ip_network(each.seen), each.vni, ip_network(each.prefix)) for each in good]

    def crossed_from(self, vni: int, other: int, seen: Address) -> Address | None:
        """The own address of what `vni` sees of VNI `other` by this one."""
        for each in self.mappings(vni):
            if each.to == other and seen in each.seen:
                return _renamed(seen, each.real)
        return None

    def seen_as(self, vni: int, other: int, address: Address) -> Address | None:
        """What `vni` calls this address of VNI `other`."""
        for each in self.mappings(vni):
            if each.to == other and address in each.real:
                return _renamed(address, each.seen)
        return None

    def vni(self, number: int) -> Vni | None:
        return self.vnis.get(number)


EMPTY = NetworkView(NetworkRecord(0, [], [], [], []))


def _without(network: Network, others: set[Network]) -> set[Network]:
    parts = {network}
    for other in others - parts:
        for part in [part for part in parts if _lies_in(other, part)]:
            parts.remove(part)
            parts.update(part.address_exclude(other))  # type: ignore[arg-type]
    return parts


def _lies_in(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]


def _renamed(address: Address, prefix: Network) -> Address:
    return prefix.network_address + (int(address) & int(prefix.hostmask))


def _is_mapping(crossing: Crossing) -> bool:
    if not _is_network(crossing.seen) or not _is_network(crossing.prefix):
        return False
    seen, prefix = ip_network(crossing.seen), ip_network(crossing.prefix)
    return (seen.version, seen.prefixlen) == (prefix.version, prefix.prefixlen)


def _is_interface(text: str) -> bool:
    try:
        ip_interface(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
