"""The network as the asking node may see it: an endpoint its own VNIs, a gateway all of its tenant."""

from __future__ import annotations

from kairos.api.session import Network, RankedGateway, Vni

from ..ports import TenantPlatform
from ..store import Stores
from ..store.devices import StoredDevice


class Networks:
    """What the nodes of one tenant may know of its network."""

    def __init__(self, platform: TenantPlatform, store: Stores) -> None:
        self._platform = platform
        self._store = store

    async def seen_by(self, device: StoredDevice) -> Network:
        """The network as it is now."""
        store, is_gateway = self._store, device.role == "gateway"
        revision = await store.tenants.revision(self._platform.tenant)  # first: what changes meanwhile is fetched again
        vnis = await store.vnis.all() if is_gateway else await store.vnis.of_node(device.node)
        numbers = [vni.vni for vni in vnis]
        leases = await store.leases.in_vnis(numbers)
        crossings = await store.interconnects.crossings(numbers) if is_gateway else {}
        routes = await store.subnet_routes.in_force(numbers)
        seen = {lease.node for lease in leases} | {device.node}
        members = [member for member in await store.devices.members() if is_gateway or member.node in seen]
        return Network(
            revision,
            [
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
            ],
            leases,
            members,
            await store.devices.revoked(),
            [RankedGateway(each.node, each.priority, each.weight) for each in await store.gateways.ranked()],
        )
