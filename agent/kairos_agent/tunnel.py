"""The agent's end of a tunnel (docs/protocol.md §7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Protocol

from kairos.errors import KairosError, Refused
from kairos.protocol import tunnel as protocol
from kairos.protocol.tunnel import EndpointTunnel
from kairos.wire.control import Config
from kairos_dataplane.engine import Network
from kairos_node.certificates import Peer
from kairos_node.relay_link import RelayChannel
from kairos_node.steps import Steps
from kairos_node.tls import TlsChannel
from kairos_node.tunnel import Own, Owner, TunnelDriver

_log = logging.getLogger(__name__)


class EndpointOwner(Owner, Protocol):
    async def set_up(self, tunnel: EndpointDriver, config: Config) -> Mapping[int, Collection[Network]]:
        """T5: makes this host's VNIs look like the newest of its Configs; what lies behind the gateway, by VNI, of those
        that are still there. Raises Refused."""
        ...


class EndpointDriver(TunnelDriver):
    """The agent's end."""

    machine: EndpointTunnel | None
    _owner: EndpointOwner

    def __init__(
        self,
        own: Own,
        tls: TlsChannel,
        channel: RelayChannel,
        owner: EndpointOwner,
        steps: Steps,
        session: str,
        version: str,
    ) -> None:
        super().__init__(own, tls, channel, owner, steps)
        self.session = session
        self.config: Config | None = None
        self._version = version
        self._wanted: Config | None = None  # the newest Config that was not carried out yet
        self._configuring: asyncio.Task[None] | None = None
        tls.start()
        self._flush()

    def _secured(self, peer: Peer) -> None:
        self.machine = EndpointTunnel(self._identities(peer), self.session, self._loop.time())
        self.machine.session_expires(self._session_ends_at)
        self.apply(self.machine.start(self._version))

    def _carry_out_own(self, effect: protocol.Effect) -> None:
        assert isinstance(effect, protocol.Configure)
        if not self.live:
            self.steps.note("T4", f"{self._own.suite.kem} encapsulated, epoch secret agreed")
        self._wanted = effect.config
        if self._configuring is None:
            self._configuring = self._loop.create_task(self._configure_all())

    async def _configure_all(self) -> None:
        """One Config after the other. Of several that come meanwhile only the newest counts: its Confirm is one of all."""
        try:
            while self._wanted is not None and not self.over:
                config, self._wanted = self._wanted, None
                await self._configure(config)
        except Refused as refusal:
            self.fail(refusal.code, str(refusal))
        except (KairosError, ValueError, OSError) as error:
            self.fail("bad-config", f"the gateway's configuration cannot be carried out: {error}")
        except Exception:  # a defect met by one gateway's Config must not leave this tunnel half configured
            _log.exception("the Config of %s", self.steps.peer)
            self.fail("internal", "an unexpected error; the log of this node says which")
        finally:
            self._configuring = None

    async def _configure(self, config: Config) -> None:
        behind = await self._owner.set_up(self, config)
        if self.over or self.machine is None:
            return
        for vni in set(self.sessions) - {each.vni for each in config.vnis}:
            self._drop_session(vni)
        for each in config.vnis:
            if each.vni not in behind:
                continue  # another gateway knows a newer network, without it
            session = self._ensure_session(each.vni, behind[each.vni], follow=False)
            self._own.dataplane.set_remote(session, each.index)
        self.config = config
        if not self.live:
            self.steps.note("T5", f"{len(config.vnis)} VNI(s) configured")
        self.apply(self.machine.confirm(config.revision, self.sessions, self._loop.time()))
        if self.live:
            self._owner.established(self)
