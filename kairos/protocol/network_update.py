"""How a node's picture of the network follows the fabric's: pages make the whole, and an update changes it."""

from __future__ import annotations

from collections.abc import Sequence

from kairos.api.session import Network, NetworkUpdate
from kairos.errors import BadMessage
from kairos.identity.spiffe import is_gateway


def assembled(pages: Sequence[NetworkUpdate]) -> Network:
    """The whole network of its pages, which are at least one.

    It has the revision of the first page: what changed while the others were read is in the update from that revision on.
    """
    first = pages[0]
    return Network(
        first.revision,
        sorted((vni for page in pages for vni in page.vnis), key=lambda vni: vni.vni),
        sorted((lease for page in pages for lease in page.leases), key=lambda lease: (lease.vni, lease.node)),
        sorted((member for page in pages for member in page.members), key=lambda member: member.node),
        sorted({node for page in pages for node in page.revoked}),
        first.gateways or [],
        first.mark,
    )


def applied(network: Network, update: NetworkUpdate, node: str) -> Network:
    """The network of `node` after an update. Raises BadMessage if the update changes another revision than this one."""
    if update.base is None or update.base != network.revision:
        raise BadMessage(f"an update of revision {update.base} does not fit revision {network.revision}")
    vnis = {vni.vni: vni for vni in network.vnis} | {vni.vni: vni for vni in update.vnis}
    for gone in update.removed_vnis:
        vnis.pop(gone, None)
    leases = {(lease.vni, lease.node): lease for lease in (*network.leases, *update.leases)}
    held = {key: lease for key, lease in leases.items() if lease.addresses and lease.vni in vnis}
    members = {member.node: member for member in (*network.members, *update.members)}
    for removed in update.removed_members:
        members.pop(removed, None)
    if not is_gateway(node):  # an endpoint knows the nodes that share a VNI with it
        seen = {holder for _, holder in held} | {node}
        members = {name: member for name, member in members.items() if name in seen}
    return Network(
        update.revision,
        [vnis[number] for number in sorted(vnis)],
        [held[key] for key in sorted(held)],
        [members[name] for name in sorted(members)],
        sorted({*network.revoked, *update.revoked}),
        network.gateways if update.gateways is None else update.gateways,
        update.mark,
    )
