"""Interconnects of one tenant: two VNIs joined at the gateways, each prefix of one by a name in the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from kairos.api.admin import InterconnectCreate, InterconnectRecord, PrefixName

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.interconnects import StoredName, key
from ..store.network_changes import change_of
from ..store.vnis import StoredVni
from .event_details import change_details
from .journal import Journal
from .network_changes import NetworkChanges
from .prefixes import Network, NetworkSet, refuse_overlaps, segment_prefix

MAPS_MAX = 256
"""Maps of one interconnect: both VNIs with all their prefixes, each in two parts."""


class Interconnects:
    """The interconnects of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, journal: Journal, network: NetworkChanges) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._network = network

    async def create(self, wanted: InterconnectCreate, actor: str) -> InterconnectRecord:
        """Raises not-found, invalid, and exists where the two are joined already."""
        a, b = await self._store.vnis.require(wanted.a), await self._store.vnis.require(wanted.b)
        if a.vni == b.vni:
            raise problem("invalid", f"{a.name} and {wanted.b} are one VNI")
        if len(wanted.maps) > MAPS_MAX:
            raise problem("invalid", f"maps: at most {MAPS_MAX}")
        if await self._store.interconnects.one(a.vni, b.vni) is not None:
            raise problem("exists", f"{a.name} and {b.name} are joined; delete that interconnect first")
        for each in wanted.maps:
            if each.vni not in (a.name, b.name):
                raise problem("invalid", f"map {each.prefix}: {each.vni} is neither {a.name} nor {b.name}")
        names = [*await self._names(wanted.maps, of=a, at=b), *await self._names(wanted.maps, of=b, at=a)]
        change = change_of(vnis=[a.vni, b.vni])
        await self._store.write(
            [
                *self._store.interconnects.add(names, int(self._platform.clock())),
                *self._network.revision(change),
            ]
        )
        record = await self._between(a, b)
        self._journal.record(
            "interconnect.created", actor=actor, subject=_subject(record), **change_details(None, record)
        )
        await self._network.announce(change)
        return record

    async def page(self, after: str, count: int) -> list[InterconnectRecord]:
        """By the names of both, as `key` joins them."""
        records = await self._store.interconnects.all()
        return [record for record in records if key(record) > after][:count]

    async def show(self, a: str, b: str) -> InterconnectRecord:
        """Raises not-found."""
        return await self._between(await self._store.vnis.require(a), await self._store.vnis.require(b))

    async def delete(self, a: str, b: str, actor: str) -> None:
        """Raises not-found."""
        one, other = await self._store.vnis.require(a), await self._store.vnis.require(b)
        record = await self._between(one, other)
        change = change_of(vnis=[one.vni, other.vni])
        await self._journal.write(
            [*self._store.interconnects.remove(one.vni, other.vni), *self._network.revision(change)],
            "interconnect.deleted",
            actor=actor,
            subject=_subject(record),
            **change_details(record, None),
        )
        await self._network.announce(change)

    # -- what limits other changes of a VNI ----------------------------------------------------------------------------

    async def refuse_where_joined(self, vni: StoredVni, lost: Iterable[str] | None = None) -> None:
        """Raises in-use while the VNI is joined to another; with `lost`, only if one of these prefixes has a name
        there."""
        gone = None if lost is None else NetworkSet(map(ip_network, lost))
        for prefix, other in await self._store.interconnects.seen_elsewhere(vni.vni):
            if gone is None or gone.overlapping(ip_network(prefix)) is not None:
                raise problem(
                    "in-use", f"{vni.name} is joined to {other}, with {prefix}; delete that interconnect first"
                )

    async def refuse_overlap(
        self, vni: StoredVni, prefixes: Iterable[Network] = (), routes: Iterable[Network] = ()
    ) -> None:
        """Raises invalid if a prefix of this VNI overlaps a network by which it sees another VNI, or if a route lies
        in one. A wider route, such as an exit route, is allowed, because the narrower network takes precedence."""
        seen = NetworkSet(map(ip_network, await self._store.interconnects.seen_in(vni.vni)))
        for network in prefixes:
            if other := seen.overlapping(network):
                raise problem("invalid", f"{network} overlaps {other}, which {vni.name} sees of another VNI")
        for network in routes:
            if other := seen.around(network):
                raise problem("invalid", f"{network} lies in {other}, which {vni.name} sees of another VNI")

    # -- names -------------------------------------------------------------------------------------------------------

    async def _names(self, maps: Sequence[PrefixName], of: StoredVni, at: StoredVni) -> list[StoredName]:
        """The names of VNI `of` in VNI `at`: those of the maps, and the own names of the prefixes that no map
        touches. Raises invalid."""
        prefixes = [ip_network(text) for text in of.prefixes]
        mapped = [_mapped(each, NetworkSet(prefixes)) for each in maps if each.vni == of.name]
        refuse_overlaps(prefix for prefix, _ in mapped)
        touched = NetworkSet(prefix for prefix, _ in mapped)
        names = [*mapped, *((prefix, prefix) for prefix in prefixes if touched.overlapping(prefix) is None)]
        refuse_overlaps(seen for _, seen in names)
        taken = NetworkSet(map(ip_network, [*at.prefixes, *await self._store.interconnects.seen_in(at.vni)]))
        behind = [*(route.prefix for route in at.routes), *await self._store.subnet_routes.prefixes_in(at.vni)]
        routes = NetworkSet(map(ip_network, behind))
        for prefix, seen in names:
            other = taken.overlapping(seen) or routes.within(seen)
            if other is not None:
                raise problem(
                    "invalid",
                    f"{seen} of {of.name} overlaps {other} in {at.name}; give it another name there, with a map of {of.name}"
                    f" from {prefix} to a free network of that length",
                )
        return [StoredName(at.vni, str(seen), of.vni, str(prefix)) for prefix, seen in names]

    async def _between(self, a: StoredVni, b: StoredVni) -> InterconnectRecord:
        record = await self._store.interconnects.one(a.vni, b.vni)
        if record is None:
            raise problem("not-found", f"{a.name} and {b.name} are not joined")
        return record


def _mapped(wanted: PrefixName, own: NetworkSet) -> tuple[Network, Network]:
    """The prefix and its name. Raises invalid."""
    prefix, seen = segment_prefix(wanted.prefix), segment_prefix(wanted.seen)
    if (prefix.version, prefix.prefixlen) != (seen.version, seen.prefixlen):
        raise problem("invalid", f"{prefix} and {seen} are not of one length: each address has one name")
    if own.around(prefix) is None:
        raise problem("invalid", f"{prefix} is no part of {wanted.vni}")
    return prefix, seen


def _subject(record: InterconnectRecord) -> str:
    return f"{record.a} <-> {record.b}"
