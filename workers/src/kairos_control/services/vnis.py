"""VNIs of one tenant: the virtual networks that its devices are members of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from kairos.api.admin import VniCreate, VniRecord
from kairos.constants import VNI_MAX
from kairos.identity.spiffe import is_name

from ..ports import DIRECTORY, ConstraintError, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.network_changes import NetworkChange, change_of
from ..store.vnis import StoredVni
from .event_details import change_details
from .interconnects import Interconnects
from .journal import Journal
from .leases import Leases
from .network_changes import NetworkChanges
from .prefixes import PREFIXES_MAX, Network, refuse_overlaps, route_prefix, segment_prefix
from .sessions import Sessions

ROUTES_MAX = 1024
"""Routes of one VNI. Every tunnel's CONFIG carries them, beside those of other VNIs, in one message of 256 KiB."""
SELECTORS_MAX = 256
"""Selectors of one VNI. Each new device is compared with all of them."""
_SELECTOR_MAX = 256  # characters
_MTU = range(1280, 9001)
_SUFFIX_MAX = 180  # room for a member's name before it
_NUMBERS_A_DATABASE = 1 << 20
_TRIES = 5  # for a number that another tenant may take at the same moment


@dataclass(frozen=True, slots=True)
class Checked:
    """What a VNI is to be, in canonical form."""

    wanted: VniCreate
    """The request, with prefixes and routes as text in canonical form."""
    prefixes: list[Network]
    """The same prefixes, parsed."""
    routes: list[Network]
    """The prefixes of its routes, parsed."""


class Vnis:
    """The VNIs of one tenant."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        network: NetworkChanges,
        sessions: Sessions,
        leases: Leases,
        interconnects: Interconnects,
    ) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._network = network
        self._sessions = sessions
        self._leases = leases
        self._interconnects = interconnects

    async def create(self, wanted: VniCreate, actor: str) -> VniRecord:
        """With all gateways, and the devices that its selectors name, as members. Raises invalid, exists,
        addresses-exhausted."""
        wanted = (await self._checked(wanted)).wanted
        gateways = [device.node for device in await self._store.devices.gateways()]
        nodes = list(dict.fromkeys([*gateways, *await self._store.vnis.selected(wanted.selectors)]))
        for _ in range(_TRIES):
            vni = _vni(wanted, wanted.vni or await self._next_number(), int(self._platform.clock()))
            change = change_of(vnis=[vni.vni], leases=[(vni.vni, node) for node in nodes])
            try:
                await self._store.write(
                    [
                        *self._store.vnis.add(vni, wanted.selectors),
                        *(() if wanted.vni else (self._store.vnis.count(vni.vni),)),
                        *await self._leases.give([vni], nodes),
                        *self._network.revision(change),
                    ]
                )
            except ConstraintError:
                if wanted.vni or await self._store.vnis.find(wanted.name) is not None:
                    break
            else:
                record = await self._store.vnis.record(vni)
                self._journal.record("vni.created", actor=actor, subject=vni.name, **change_details(None, record))
                await self._announce(change, nodes)
                return record
        raise problem("exists", f"a VNI named {wanted.name} or numbered {vni.vni} exists")

    async def change(self, name: str, wanted: VniCreate, actor: str) -> VniRecord:
        """Replaces everything but name and number. Members stay, and the devices that a selector names become
        members. A prefix can be removed when no endpoint has an address in it. Raises not-found, invalid, in-use,
        addresses-exhausted."""
        checked = await self._checked(wanted)
        wanted, held = checked.wanted, await self._store.vnis.require(name)
        if wanted.name != held.name or wanted.vni not in (0, held.vni):
            raise problem("invalid", f"{held.name} keeps its name and its number, {held.vni}")
        before = await self._store.vnis.record(held)
        vni = _vni(wanted, held.vni, held.created_at)
        lost = set(held.prefixes) - set(vni.prefixes)
        if lost:
            await self._interconnects.refuse_where_joined(held, lost)
            await self._refuse_where_used(vni.vni, lost)
        await self._interconnects.refuse_overlap(held, checked.prefixes, checked.routes)
        members = await self._store.leases.members([vni.vni])
        nodes = list(dict.fromkeys([*members, *await self._store.vnis.selected(wanted.selectors)]))
        changed = nodes if set(vni.prefixes) != set(held.prefixes) else set(nodes) - set(members)
        change = change_of(vnis=[vni.vni], leases=[(vni.vni, node) for node in changed])
        await self._store.write(
            [
                *self._store.vnis.put(vni, wanted.selectors),
                self._store.leases.remove_prefixes(vni.vni, lost),
                *await self._leases.give([vni], nodes),
                *self._network.revision(change),
            ]
        )
        after = await self._store.vnis.record(vni)
        if after != before:
            self._journal.record(
                "vni.changed",
                actor=actor,
                subject=vni.name,
                **change_details(before, after),
            )
            await self._announce(change, changed)
        return after

    async def page(self, after: str, count: int) -> list[VniRecord]:
        """By name."""
        return await self._store.vnis.page(after, count)

    async def show(self, name: str) -> VniRecord:
        """Raises not-found."""
        return await self._store.vnis.record(await self._store.vnis.require(name))

    async def delete(self, name: str, actor: str) -> None:
        """With its leases, its routes and all that was given in it. Raises not-found, and in-use while it is joined
        to another."""
        vni = await self._store.vnis.require(name)
        await self._interconnects.refuse_where_joined(vni)
        before = await self._store.vnis.record(vni)
        members = await self._store.leases.members([vni.vni])
        change = change_of(vnis=[vni.vni], leases=[(vni.vni, node) for node in members])
        await self._journal.write(
            [
                *self._store.leases.remove_vni(vni.vni),
                self._store.subnet_routes.remove_vni(vni.vni),
                *self._store.vnis.remove(vni.vni),
                *self._network.revision(change),
            ],
            "vni.deleted",
            actor=actor,
            subject=vni.name,
            **change_details(before, None),
        )
        await self._announce(change, members)

    async def _announce(self, change: NetworkChange, nodes: Collection[str]) -> None:
        """Announces a written change, and updates the sessions of the nodes whose VNIs have changed."""
        await self._sessions.refresh(nodes)
        await self._network.announce(change, nodes)

    async def _refuse_where_used(self, vni: int, prefixes: Collection[str]) -> None:
        """Raises in-use while an endpoint has an address in one of these prefixes."""
        used = await self._store.leases.endpoint_in(vni, prefixes)
        if used is not None:
            raise problem("in-use", f"{used[0]} has an address in {used[1]}; remove it from the VNI first")

    async def _checked(self, wanted: VniCreate) -> Checked:
        """Raises invalid unless it makes sense for this tenant."""
        checked = checked_vni(wanted)
        if wanted.routes:
            gateways = {device.node for device in await self._store.devices.gateways()}
            for route in wanted.routes:
                if route.via not in gateways:
                    raise problem("invalid", f"route {route.prefix}: {route.via} is no gateway of this tenant")
        return checked

    async def _next_number(self) -> int:
        home = await self._store.home.placement()
        number = max(await self._store.vnis.next_number(), _first_number(home.shard))
        if number > VNI_MAX:
            raise problem("invalid", f"the number {VNI_MAX} is taken: choose one that is free, with `vni`")
        return number


def _first_number(shard: str) -> int:
    """Each database counts from a base of its own, so that a tenant that moves to another finds its numbers free."""
    return int(shard.removeprefix(DIRECTORY).lstrip("_") or 0) * _NUMBERS_A_DATABASE + 1


def checked_vni(wanted: VniCreate) -> Checked:
    """Raises invalid."""
    if not is_name(wanted.name) or not 0 <= wanted.vni <= VNI_MAX or wanted.mtu not in _MTU:
        raise problem("invalid", f"name: a DNS label; vni: up to {VNI_MAX}; mtu: {_MTU.start} to {_MTU.stop - 1}")
    if wanted.dns_suffix and not _is_suffix(wanted.dns_suffix):
        raise problem("invalid", "dns_suffix: a domain in lower case, as in office.internal")
    if len(wanted.selectors) > SELECTORS_MAX or len(wanted.routes) > ROUTES_MAX:
        raise problem("invalid", f"selectors: at most {SELECTORS_MAX}; routes: at most {ROUTES_MAX}")
    for selector in wanted.selectors:
        kind, _, value = selector.partition(":")
        if kind not in ("tag", "group") or not value or len(selector) > _SELECTOR_MAX:
            raise problem("invalid", f"a selector is tag:<tag> or group:<group>, of at most {_SELECTOR_MAX} characters")
    if not 1 <= len(wanted.prefixes) <= PREFIXES_MAX:
        raise problem("invalid", f"prefixes: 1 to {PREFIXES_MAX}")
    prefixes = [segment_prefix(text) for text in wanted.prefixes]
    refuse_overlaps(prefixes)
    routes = [route_prefix(route.prefix) for route in wanted.routes]
    canonical = msgspec.structs.replace(
        wanted,
        prefixes=list(map(str, prefixes)),
        routes=[
            msgspec.structs.replace(route, prefix=str(prefix))
            for route, prefix in zip(wanted.routes, routes, strict=True)
        ],
    )
    return Checked(canonical, prefixes, routes)


def _is_suffix(text: str) -> bool:
    return len(text) <= _SUFFIX_MAX and all(map(is_name, text.split(".")))


def _vni(wanted: VniCreate, number: int, created_at: int) -> StoredVni:
    return StoredVni(number, wanted.name, wanted.prefixes, wanted.mtu, wanted.dns_suffix, wanted.routes, created_at)
