"""This node's network, brought up to date with the fabric's."""

from __future__ import annotations

from kairos.api.session import Network
from kairos.errors import BadMessage
from kairos.protocol.network_update import applied, assembled

from .fabric import FabricClient
from .network_view import EMPTY

_PAGES_MAX = 1024
_ROUNDS = (
    4  # pages, and what changed while they were fetched; pages again only where the node came into a VNI meanwhile
)


async def up_to_date(client: FabricClient, held: Network, node: str) -> Network:
    """The network of `node` now, of what it holds and what the fabric says changed since; all of it anew where that does not fit.

    Raises ProblemError, ConnectionError, and BadMessage for a fabric that contradicts itself.
    """
    network = held
    for _ in range(_ROUNDS):
        update = await client.network(network.revision, network.mark)
        if update.base is not None:
            if update.base == network.revision:
                return applied(network, update, node)
            network = EMPTY.record
            continue
        pages = [update]
        while pages[-1].next:
            if len(pages) == _PAGES_MAX:
                raise BadMessage(f"the network has more than {_PAGES_MAX} pages")
            pages.append(await client.network_page(pages[-1].next))
        network = assembled(pages)
        if len(pages) == 1:
            return network
    raise BadMessage("the network changes faster than it can be fetched")
