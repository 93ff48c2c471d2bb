"""The gateway's end of one endpoint's tunnel (docs/protocol.md §7)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from kairos.protocol import tunnel as protocol
from kairos.protocol.tunnel import GatewayTunnel
from kairos.wire.control import Config, VniConfig
from kairos_dataplane.engine import Network
from kairos_node.certificates import Peer
from kairos_node.relay_link import RelayChannel
from kairos_node.steps import Steps
from kairos_node.tls import TlsChannel
from kairos_node.tunnel import Own, Owner, TunnelDriver

Verify = Callable[["GatewayDriver", str], None]


class GatewayDriver(TunnelDriver):
    """The gateway's end of one endpoint. verify: asked once for the session that Hello named; it answers, now or later,
    with `accept` or `fail`."""

    machine: GatewayTunnel | None

    def __init__(
        self,
        own: Own,
        tls: TlsChannel,
        channel: RelayChannel,
        owner: Owner,
        steps: Steps,
        verify: Verify,
        rekey_after_s: float,
    ) -> None:
        super().__init__(own, tls, channel, owner, steps)
        self._verify = verify
        self._rekey_after_s = rekey_after_s
        self._vnis: tuple[VniConfig, ...] = ()
        self.session = ""

    def accept(
        self, revision: int, vnis: Collection[VniConfig], leases: Mapping[int, Collection[Network]], direct: tuple[str, ...],
        expires_at: float,
    ) -> None:  # fmt: skip
        """The session is good. vnis: without their index, which the data plane chooses here; leases: what the endpoint may
        send from, by VNI; expires_at: the event loop's time."""
        if self.over or self.machine is None:
            return
        self._session_ends_at = expires_at
        config = self._config(revision, vnis, leases, direct)
        self.apply(self.machine.accept(config, expires_at, self._loop.time()))

    def reconfigure(
        self,
        revision: int,
        vnis: Collection[VniConfig],
        leases: Mapping[int, Collection[Network]],
        direct: tuple[str, ...],
    ) -> None:
        """T5 again, for a live tunnel."""
        if self.live and self.machine is not None and not self.orphan:
            config = self._config(revision, vnis, leases, direct)
            self.apply(self.machine.reconfigure(config, self._loop.time()))

    def differs(self, vnis: Collection[VniConfig], leases: Mapping[int, Collection[Network]]) -> bool:
        """Is this another configuration than the one in force, or may it send from elsewhere now?"""
        if any(self._leases.get(vni) != frozenset(networks) for vni, networks in leases.items()):
            return True
        return {replace(each, index=0) for each in self._vnis} != {replace(each, index=0) for each in vnis}

    def limit(self, size: int) -> None:
        """Bytes of the largest datagram that the direct path to the endpoint carries; 0: no limit is known."""
        for session in self.sessions.values():
            with contextlib.suppress(OSError):  # it was cut meanwhile
                self._own.dataplane.set_limit(session, size)

    def _config(
        self,
        revision: int,
        vnis: Collection[VniConfig],
        leases: Mapping[int, Collection[Network]],
        direct: tuple[str, ...],
    ) -> Config:
        for vni in set(self.sessions) - {each.vni for each in vnis}:
            self._drop_session(vni)
        indexed = tuple(
            VniConfig(
                each.vni,
                each.name,
                self._ensure_session(each.vni, leases[each.vni], follow=True),
                each.mtu,
                each.addresses,
                each.routes,
                each.dns_suffix,
            )
            for each in vnis
        )
        self._vnis = indexed
        return Config(revision, indexed, direct)

    def _secured(self, peer: Peer) -> None:
        self.machine = GatewayTunnel(self._identities(peer), self._loop.time(), self._rekey_after_s)
        self._arm()

    def _carry_out_own(self, effect: protocol.Effect) -> None:
        assert isinstance(effect, protocol.VerifySession)
        self.session = effect.session
        self._verify(self, effect.session)
