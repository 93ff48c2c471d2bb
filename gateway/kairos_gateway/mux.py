"""The gateway's one relay socket, which carries the channels of all its endpoints (docs/protocol.md §5)."""

from __future__ import annotations

import asyncio
import logging

from kairos.api.problem import ProblemError
from kairos.api.session import SessionGrant, SessionRequest
from kairos.errors import KairosError, Refused
from kairos_dataplane import Dataplane
from kairos_node.backoff import Backoff
from kairos_node.fabric import FabricClient
from kairos_node.relay_link import Accept, RelayLink

_log = logging.getLogger(__name__)


class Mux:
    """Keeps the socket open, under a session of the gateway's own. links: holds the open one."""

    def __init__(self, client: FabricClient, dataplane: Dataplane, links: list[RelayLink], accept: Accept) -> None:
        self._client = client
        self._dataplane = dataplane
        self._links = links
        self._accept = accept
        self._backoff = Backoff(0.25, 5.0)

    @property
    def connected(self) -> bool:
        return bool(self._links)

    async def run(self) -> None:
        while True:
            try:
                await self._serve()
            except (ConnectionError, ProblemError, KairosError) as error:
                _log.warning("%s", error)
            await asyncio.sleep(self._backoff.next())

    async def _serve(self) -> None:
        """One socket, to its end."""
        grant = await self._client.open_session(SessionRequest())
        if not grant.gateways:
            raise Refused("no-gateway", "the fabric names no relay for this gateway")
        link = await RelayLink.open(grant.gateways[0].relay_url, grant.token, self._dataplane, self._accept)
        self._links.append(link)
        self._backoff.reset()
        _log.info("connected to the relay")
        renewal = asyncio.ensure_future(self._renew(link, grant))
        try:
            reason = await asyncio.shield(link.lost)
            _log.warning("the connection to the relay ended: %s", reason or "no reason given")
        finally:
            self._links.remove(link)
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _renew(self, link: RelayLink, grant: SessionGrant) -> None:
        """The relay ends a socket whose session is not renewed; then `_serve` starts with another."""
        wait, backoff = grant.renew_at_s, Backoff(1.0, 15.0)
        while True:
            await asyncio.sleep(wait)
            try:
                renewed = await self._client.open_session(SessionRequest(renews=grant.session))
            except ConnectionError as error:
                wait = backoff.next()
                _log.warning("the relay session was not renewed: %s; again in %.1f s", error, wait)
            except (ProblemError, KairosError) as error:
                _log.warning("the relay session was not renewed: %s", error)
                link.close()
                return
            else:
                backoff.reset()
                wait = renewed.renew_at_s
                link.renew(renewed.token)
