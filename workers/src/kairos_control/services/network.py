"""The network as a node may see it: an endpoint sees its own VNIs, a gateway all VNIs of its tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from kairos.api.enrollment import Role
from kairos.api.session import Lease, Network, NetworkUpdate, RankedGateway, Vni
from kairos.identity.spiffe import is_gateway
from kairos.protocol.network_update import assembled

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.devices import StoredDevice
from ..store.network_changes import NetworkChange
from ..store.vnis import StoredVni
from .rate_limits import NETWORK, Limits

PAGE_BYTES = 1024 * 1024
"""Of JSON in one page, and in one update. A page ends with the item that reaches it."""
_PAGE_ITEMS = 1000  # VNIs, or nodes
_UPDATE_KEYS = 2000  # beyond these an update would be little smaller than the whole
_T = TypeVar("_T")


class Networks:
    """What the nodes of one tenant may know of its network."""

    def __init__(self, platform: TenantPlatform, store: Stores, limits: Limits) -> None:
        self._limits = limits
        self._platform = platform
        self._store = store

    async def seen_by(self, device: StoredDevice) -> Network:
        """All of it in one value, for nodes that know no pages."""
        pages = [await self.page(device, "")]
        while pages[-1].next:
            pages.append(await self.page(device, pages[-1].next))
        return assembled(pages)

    async def update(self, device: StoredDevice, since: int, mark: str) -> NetworkUpdate:
        """What changed for this node since a revision with this mark; the first page of the whole network where the
        history does not have that, or where the node came into a VNI."""
        newest, newest_mark = await self._store.network_changes.newest()
        change = await self._store.network_changes.between(since, mark, newest)
        if change is None or change.size > _UPDATE_KEYS:
            return await self.page(device, "")
        update = NetworkUpdate(newest, newest_mark, since)
        if change.size or change.gateways:
            fits = await self._fill(update, change, device)
            if not fits or len(msgspec.json.encode(update)) > PAGE_BYTES:
                return await self.page(device, "")
        return update

    async def page(self, device: StoredDevice, after: str) -> NetworkUpdate:
        """A page of the whole network: first the VNIs, then the nodes with their leases. after: `next` of the page
        before; empty for the first. Raises invalid, too-many-requests."""
        self._limits.take(NETWORK, device.node)
        page = NetworkUpdate(*await self._store.network_changes.newest())
        if not after:
            roles: tuple[Role, ...] = ("gateway", "endpoint") if device.role == "gateway" else ("gateway",)
            page.revoked = await self._store.devices.revoked(*roles)
            page.gateways = await self._gateways()
        kind, last = after[:1], after[1:]
        if kind == "n":
            await self._add_nodes(page, device, last)
        elif kind in ("", "v") and (not last or (last.isascii() and last.isdecimal() and len(last) <= 8)):
            await self._add_vnis(page, device, int(last or 0))
        else:
            raise problem("invalid", "after: the `next` of the page before")
        return page

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def _add_vnis(self, page: NetworkUpdate, device: StoredDevice, last: int) -> None:
        if device.role == "gateway":
            vnis = await self._store.vnis.after(last, _PAGE_ITEMS)
        else:
            own = await self._store.vnis.of_node(device.node)
            vnis = [vni for vni in own if vni.vni > last][:_PAGE_ITEMS]
        page.vnis = _fitting(await self._views(vnis, device))
        if len(page.vnis) < len(vnis) or len(vnis) == _PAGE_ITEMS:
            page.next = f"v{page.vnis[-1].vni}"
        else:
            await self._add_nodes(page, device, "")

    async def _add_nodes(self, page: NetworkUpdate, device: StoredDevice, last: str) -> None:
        own: set[int] | None = None
        if device.role == "gateway":
            nodes = await self._store.devices.nodes_after(last, _PAGE_ITEMS)
        else:
            own = set((await self._store.leases.vnis_of([device.node])).get(device.node, []))
            nodes = await self._store.leases.nodes_after(own, last, _PAGE_ITEMS) if own else [device.node]
        members = {member.node: member for member in await self._store.devices.members(nodes)}
        leases: dict[str, list[Lease]] = {node: [] for node in nodes}
        for lease in await self._store.leases.of_nodes(nodes):
            if own is None or lease.vni in own:
                leases[lease.node].append(lease)
        items = _fitting([([members[node]] if node in members else [], leases[node]) for node in nodes])
        page.members = [member for known, _ in items for member in known]
        page.leases = [lease for _, held in items for lease in held]
        if len(items) < len(nodes) or len(nodes) == _PAGE_ITEMS:
            page.next = f"n{nodes[len(items) - 1]}"

    # -- what changed ------------------------------------------------------------------------------------------------

    async def _fill(self, update: NetworkUpdate, change: NetworkChange, device: StoredDevice) -> bool:
        """Puts what the changed things are now, as far as this node sees them. False: it has to fetch the whole."""
        nodes = {device.node, *change.members, *(node for _, node in change.leases)}
        held = {(lease.vni, lease.node): lease for lease in await self._store.leases.of_nodes(sorted(nodes))}
        own = {vni for vni, node in held if node == device.node}
        sees_all = device.role == "gateway"
        named = {vni for vni, node in change.leases if node == device.node}
        if not sees_all and named & own:
            return False  # it came into that VNI, and knows nothing of it
        vnis = {vni.vni: vni for vni in await self._store.vnis.numbered(change.touched)}
        gone = change.touched - set(vnis)
        if any((sees_all or vni in own) if vni in vnis else not sees_all for vni in change.remade):
            return False  # of one that is gone, nobody knows any more which endpoints were in it
        update.removed_vnis = sorted(gone if sees_all else named - own)
        visible = set(vnis) if sees_all else set(vnis) & own
        update.vnis = await self._views([vnis[number] for number in change.vnis if number in visible], device)
        update.leases = [held.get(key, Lease(*key, [])) for key in change.leases if key[0] in visible]
        nodes = {*change.members, *(lease.node for lease in update.leases)}
        members = await self._store.devices.members(sorted(nodes))
        if sees_all:
            update.members = members
            update.removed_members = sorted(set(change.members) - {member.node for member in members})
            update.revoked = list(change.revoked)
        else:
            known = {node for vni, node in held if vni in own} | {device.node}
            update.members = [member for member in members if member.node in known]
            update.revoked = [node for node in change.revoked if is_gateway(node)]
        update.gateways = await self._gateways() if change.gateways else None
        return True

    # -- as the wire has it ------------------------------------------------------------------------------------------

    async def _views(self, vnis: Sequence[StoredVni], device: StoredDevice) -> list[Vni]:
        """VNIs as the API shows them. Only a gateway gets the interconnects, because packets cross there."""
        numbers = [vni.vni for vni in vnis]
        routes = await self._store.subnet_routes.in_force(numbers)
        crossings = await self._store.interconnects.crossings(numbers) if device.role == "gateway" else {}
        return [
            Vni(
                vni.vni,
                vni.name,
                vni.prefixes,
                vni.mtu,
                vni.dns_suffix,
                [*vni.routes, *routes.get(vni.vni, [])],
                crossings.get(vni.vni, []),
            )
            for vni in vnis
        ]

    async def _gateways(self) -> list[RankedGateway]:
        return [RankedGateway(each.node, each.priority, each.weight) for each in await self._store.gateways.ranked()]


def _fitting(items: Sequence[_T]) -> list[_T]:
    """The first of them, up to the one that fills a page."""
    size = 0
    for at, item in enumerate(items):
        size += len(msgspec.json.encode(item))
        if size > PAGE_BYTES:
            return list(items[: at + 1])
    return list(items)
