"""Who is in a VNI, and with which addresses."""

from __future__ import annotations

from kairos.api.admin import MemberRecord, MemberWanted

from ..problems import problem
from ..store import Stores
from ..store.network_changes import change_of
from .event_details import change_details
from .journal import Journal
from .leases import Leases
from .network_changes import NetworkChanges
from .sessions import Sessions


class Members:
    """The members of the VNIs of one tenant."""

    def __init__(
        self, store: Stores, journal: Journal, network: NetworkChanges, sessions: Sessions, leases: Leases
    ) -> None:
        self._store = store
        self._journal = journal
        self._network = network
        self._sessions = sessions
        self._leases = leases

    async def page(self, name: str, after: str, count: int) -> list[MemberRecord]:
        """By node. Raises not-found."""
        vni = await self._store.vnis.require(name)
        return await self._store.leases.page(vni.vni, after, count)

    async def put(self, name: str, node: str, wanted: MemberWanted, actor: str) -> MemberRecord:
        """A member from now on, with the addresses that were asked for and one of every other prefix.

        Raises not-found, invalid, exists, addresses-exhausted.
        """
        vni, device = await self._store.vnis.require(name), await self._store.devices.one(node)
        if device is None or not device.active:
            raise problem("not-found", f"there is no device {node}")
        before = await self._store.leases.addresses(vni.vni, node)
        change = change_of(leases=[(vni.vni, node)])
        await self._store.write(
            [*await self._leases.give_chosen(vni, node, wanted.addresses), *self._network.revision(change)]
        )
        after = await self._store.leases.addresses(vni.vni, node)
        if after != before:
            self._journal.record(
                "member.changed" if before else "member.added",
                actor=actor,
                subject=node,
                vni=vni.vni,
                **change_details(before, after),
            )
            await self._sessions.refresh([node])
            await self._network.announce(change)
        return MemberRecord(node, device.role, device.name, after)

    async def remove(self, name: str, node: str, actor: str) -> None:
        """Raises not-found, and in-use for a gateway."""
        vni = await self._store.vnis.require(name)
        before = await self._store.leases.addresses(vni.vni, node)
        if not before:
            raise problem("not-found", f"{node} is no member of {vni.name}")
        device = await self._store.devices.one(node)
        if device is not None and device.role == "gateway":
            raise problem("in-use", "a gateway is in every VNI of its tenant; revoke it, or delete the VNI")
        routes = {at for at, _ in await self._store.subnet_routes.of_node(node)}
        change = change_of(leases=[(vni.vni, node)], vnis={vni.vni} & routes)
        await self._journal.write(
            [
                self._store.leases.remove(vni.vni, node),
                self._store.subnet_routes.remove(vni.vni, node),
                *self._network.revision(change),
            ],
            "member.removed",
            actor=actor,
            subject=node,
            vni=vni.vni,
            **change_details(before, None),
        )
        await self._sessions.refresh([node])
        await self._network.announce(change)
