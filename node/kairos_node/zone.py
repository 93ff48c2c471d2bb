"""The names inside one VNI: those of its members, and nobody else's.

Each member is called by its host name, made a DNS label, and by its node id. A host name that two members bear names neither:
whoever enrolls must not take over a name that others use.
"""

from __future__ import annotations

import re
from collections import Counter
from ipaddress import ip_interface, ip_network
from weakref import WeakKeyDictionary

from kairos.identity.spiffe import is_name
from kairos_dataplane.engine import Network
from kairos_node.network_view import Address, NetworkView

_SUFFIX_MAX = 180  # room for a label before it, in the 253 characters of a name
_NOT_IN_LABELS = re.compile(r"[^a-z0-9]+")


class Zone:
    """suffix: without a dot at its end; empty where the VNI has none, or one that is no domain. Names are in lower case, without
    the suffix."""

    def __init__(self, view: NetworkView, vni: int) -> None:
        record = view.vnis.get(vni)
        self.suffix = suffix_of(record.dns_suffix) if record is not None else ""
        self.prefixes = _networks(record.prefixes) if record is not None else set()
        members = {lease.node: view.members[lease.node] for lease in view.record.leases
                   if lease.vni == vni and lease.node in view.members}  # fmt: skip
        borne = Counter(label_of(member.name) for member in members.values())
        self._addresses: dict[str, tuple[Address, ...]] = {}
        self._names: dict[Address, str] = {}
        for node, member in members.items():
            label = label_of(member.name)
            addresses = tuple(ip_interface(text).ip for text in view.addresses(vni, node))
            own = label if label and borne[label] == 1 and label not in members else node
            self._addresses |= {node: addresses, own: addresses}
            self._names |= dict.fromkeys(addresses, own)

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Of a member; empty where nobody bears the name."""
        return self._addresses.get(name, ())

    def name(self, address: Address) -> str:
        """What its holder is called; empty where nobody has it."""
        return self._names.get(address, "")


_made: WeakKeyDictionary[NetworkView, dict[int, Zone]] = WeakKeyDictionary()


def zone_of(view: NetworkView, vni: int) -> Zone:
    """The names of a VNI in this view, which are gathered once: a proxy asks for each connection."""
    zones = _made.setdefault(view, {})
    if vni not in zones:
        zones[vni] = Zone(view, vni)
    return zones[vni]


def suffix_of(text: str) -> str:
    """The canonical form; empty for what is no domain: the fabric is not trusted to be careful."""
    suffix = text.lower().removesuffix(".")
    return suffix if len(suffix) <= _SUFFIX_MAX and all(map(is_name, suffix.split("."))) else ""


def label_of(name: str) -> str:
    """`Alice's laptop.example.net` is `alice-s-laptop`."""
    return _NOT_IN_LABELS.sub("-", name.partition(".")[0].lower())[:63].strip("-")


def lies_under(name: str, suffix: str) -> bool:
    """Is it the suffix itself or a name below it?"""
    return name == suffix or name.endswith(f".{suffix}")


def _networks(prefixes: list[str]) -> set[Network]:
    found: set[Network] = set()
    for text in prefixes:
        try:
            found.add(ip_network(text))
        except ValueError:
            continue
    return found
