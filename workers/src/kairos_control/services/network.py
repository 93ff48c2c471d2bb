"""The network as the asking node may see it: an endpoint its own VNIs, a gateway all of its tenant."""

from __future__ import annotations

from kairos.api.session import Lease, Member, Network, RankedGateway

from ..http.call import Call, Reply, reply
from ..ports import TenantPlatform
from ..store.gateways import GatewayStore
from ..store.records import strings, vni_view
from .subnet_routes import in_force


async def show(platform: TenantPlatform, call: Call) -> Reply:
    tenant, node = platform.tenant, call.node.node
    vnis = await platform.database.rows("SELECT * FROM vnis WHERE tenant = ? ORDER BY vni", tenant)
    leases = await platform.database.rows("SELECT * FROM leases WHERE tenant = ? ORDER BY vni, node, prefix", tenant)
    crossings = await platform.database.rows(
        "SELECT i.* FROM interconnects i JOIN vnis v ON v.vni = i.vni WHERE v.tenant = ? ORDER BY i.vni, i.seen", tenant
    )
    if call.node.role == "endpoint":
        crossings = []
        own = {lease["vni"] for lease in leases if lease["node"] == node}
        vnis = [vni for vni in vnis if vni["vni"] in own]
        leases = [lease for lease in leases if lease["vni"] in own]
    devices = await platform.database.rows("SELECT * FROM devices WHERE tenant = ?", tenant)
    seen = {lease["node"] for lease in leases} | {node}
    by_member: dict[tuple[int, str], list[str]] = {}
    for lease in leases:
        by_member.setdefault((lease["vni"], lease["node"]), []).append(lease["address"])
    members = [
        Member(
            row["node"], row["role"], row["name"], row["serial"], bytes.fromhex(row["key_fingerprint"]), strings(row["tags"]),
            strings(row["groups"]), row["owner"],
        )
        for row in devices
        if row["status"] == "active" and (row["node"] in seen or call.node.role == "gateway")
    ]  # fmt: skip
    routes = await in_force(platform.database, tenant)
    record = await platform.database.first("SELECT revision FROM tenants WHERE tenant = ?", tenant)
    return reply(
        Network(
            record["revision"] if record else 0,
            [vni_view(vni, routes.get(vni["vni"], []), crossings) for vni in vnis],
            [Lease(vni, member, addresses) for (vni, member), addresses in by_member.items()],
            members,
            [row["node"] for row in devices if row["status"] == "revoked"],
            [
                RankedGateway(gateway.node, gateway.priority, gateway.weight)
                for gateway in await GatewayStore(platform.database, tenant).ranked()
            ],
        )
    )
