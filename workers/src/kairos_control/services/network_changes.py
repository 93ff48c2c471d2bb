"""Changes of the network. Each is a revision that is written in the batch of the change and then announced to the
nodes that see it."""

from __future__ import annotations

from collections.abc import Collection

from kairos.api.push import NetworkChanged
from kairos.identity.spiffe import is_gateway

from ..ports import Statement, TenantPlatform
from ..store import Stores
from ..store.network_changes import NetworkChange
from .pushes import Pushes

_MARK_BYTES = 8


class NetworkChanges:
    """The revisions of one tenant's network."""

    def __init__(self, platform: TenantPlatform, store: Stores, pushes: Pushes) -> None:
        self._platform = platform
        self._store = store
        self._pushes = pushes

    def revision(self, change: NetworkChange) -> list[Statement]:
        """The next revision, to be written in one batch with the change itself."""
        return self._store.network_changes.add(change, self._platform.entropy(_MARK_BYTES).hex())

    async def announce(self, change: NetworkChange, nodes: Collection[str] = ()) -> None:
        """Notifies the nodes that see a written change: the gateways, the endpoints in the VNIs that it touches, the
        nodes that it names, and `nodes`, which are those that saw it before. Other nodes stay at an older revision,
        which harms nothing."""
        revision, _ = await self._store.network_changes.newest()
        message = NetworkChanged(revision)
        if change.gateways:
            self._pushes.to_all(message)
            return
        vnis = change.touched
        for of_member in (await self._store.leases.vnis_of(change.members)).values():
            vnis.update(of_member)
        concerned = {*nodes, *change.members, *(node for _, node in change.leases)}
        concerned.update(await self._store.leases.members(vnis))
        self._pushes.to_gateways(message)
        self._pushes.to({node for node in concerned if not is_gateway(node)}, message)
