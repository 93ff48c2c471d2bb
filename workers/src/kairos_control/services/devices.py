"""The devices of one tenant, and the enrollments that wait for the operator."""

from __future__ import annotations

from kairos.api.admin import Device

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.enrollments import StoredEnrollment
from ..store.network_changes import change_of
from .enrollments import Enrollments
from .event_sockets import EventSockets
from .journal import Journal
from .network_changes import NetworkChanges
from .sessions import Sessions

WAITING_MAX = 1000
"""How many enrollments that wait a listing shows at most, the oldest first."""


class Devices:
    """The devices of one tenant as its operator sees them."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        network: NetworkChanges,
        enrollments: Enrollments,
        sessions: Sessions,
        event_sockets: EventSockets,
    ) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._network = network
        self._enrollments = enrollments
        self._sessions = sessions
        self._event_sockets = event_sockets

    async def page(self, after: str, count: int) -> list[Device]:
        """Enrolled devices, by node."""
        page = await self._store.devices.page(after, count)
        online = await self._event_sockets.online([each.node for each in page])
        return [self._seen(each, online) for each in page]

    async def waiting(self) -> list[Device]:
        """Enrollments that are held or were denied, the oldest first, at most WAITING_MAX."""
        waiting = self._store.enrollments.waiting(WAITING_MAX)
        known = await self._store.devices.known(each.node for each in waiting)
        return [self._waiting(each) for each in waiting if each.node not in known]

    async def one(self, node: str) -> Device:
        """An enrolled device, or an enrollment that waits. Raises not-found."""
        device = await self._store.devices.record(node)
        if device is not None:
            return self._seen(device, await self._event_sockets.online([node]))
        waiting = self._store.enrollments.of_node(node)
        if waiting is None or not waiting.waits:
            raise problem("not-found", f"there is no device {node}")
        return self._waiting(waiting)

    async def approve(self, node: str, actor: str) -> Device:
        """Lets a held device in. Raises not-found if nothing of that name is held."""
        await self._enrollments.approve(node, actor)
        return await self.one(node)

    async def deny(self, node: str, reason: str, actor: str) -> Device:
        """Turns a held device away. Raises not-found if nothing of that name is held."""
        self._enrollments.deny(node, reason, actor)
        return await self.one(node)

    async def revoke(self, node: str, actor: str) -> None:
        """Ends the device's certificates and sessions now; its key never enrolls again. Raises not-found."""
        device = await self._store.devices.one(node)
        if device is None:
            raise problem("not-found", f"there is no device {node}")
        reason = "deleted by the operator"
        vnis = (await self._store.leases.vnis_of([node])).get(node, [])
        change = change_of(
            vnis={vni for vni, _ in await self._store.subnet_routes.of_node(node)},
            leases=[(vni, node) for vni in vnis],
            revoked=[node],
            gateways=device.role == "gateway",
        )
        await self._journal.write(
            [
                self._store.devices.revoke(node, reason),
                self._store.leases.remove_node(node),
                self._store.subnet_routes.remove_node(node),
                *self._network.revision(change),
            ],
            "device.revoked",
            actor=actor,
            subject=node,
            reason=reason,
        )
        self._store.enrollments.remove(node)
        await self._sessions.revoke(node, reason)
        await self._network.announce(change)

    def _seen(self, device: Device, online: set[str]) -> Device:
        """Adds what only the tenant's object knows: whether it is online, and whether it is isolated."""
        device.online = device.node in online
        reason = self._store.isolations.reason(device.node)
        if reason is not None:
            device.status, device.reason = "isolated", reason
        return device

    def _waiting(self, enrollment: StoredEnrollment) -> Device:
        return Device(
            enrollment.node,
            self._platform.tenant,
            enrollment.role,
            enrollment.name,
            enrollment.status,
            b"",
            reason=enrollment.reason,
            enrollment=enrollment.enrollment,
        )
