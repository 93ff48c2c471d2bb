"""T3-T7 in life: a tunnel machine between a relay channel, a TLS connection, the clock and the data plane.

The machines of `kairos.protocol.tunnel` decide; a driver carries their effects out. It lives on the event loop and
never blocks. When its channel breaks, an established tunnel goes on without one until its session ends: the direct path
needs no relay, and whoever comes back with a new tunnel replaces this one then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

from kairos.constants import HANDSHAKE_WAIT_S, REKEY_AFTER_S, SESSION_LIFE_S
from kairos.crypto.provider import Provider, SigningKey
from kairos.crypto.schedule import VniKey
from kairos.crypto.suites import Suite
from kairos.errors import BadMessage, Refused
from kairos.protocol import tunnel as protocol
from kairos.protocol.tunnel import EndpointTunnel, GatewayTunnel, Identities, State
from kairos.wire.control import MessageStream, encode
from kairos_dataplane import Dataplane, SessionKey
from kairos_dataplane.engine import Network, boottime_ms
from kairos_node.certificates import Peer
from kairos_node.relay_link import RelayChannel
from kairos_node.steps import Steps
from kairos_node.tls import TlsChannel

# The data plane ends by itself what we would have ended so long ago: we hang.
_HUNG_AFTER_S = 5.0
# The next rekey, which may take its time, or the end of the session of a tunnel that has lost its channel just before.
_KEY_LIFE_S = REKEY_AFTER_S + HANDSHAKE_WAIT_S + SESSION_LIFE_S


@dataclass(frozen=True, slots=True)
class Own:
    """Who we are, and what moves our packets. cut: ends a session of the data plane, and is happy when it is gone.
    timed: told of each set-up how long it took, from its first step to T6, in seconds."""

    suite: Suite
    provider: Provider
    key: SigningKey
    dataplane: Dataplane
    cut: Callable[[int], None]
    timed: Callable[[float], None] = lambda _: None


class Owner(Protocol):
    """The daemon behind a tunnel, as both sides need it."""

    def established(self, tunnel: TunnelDriver) -> None: ...

    def ended(self, tunnel: TunnelDriver, code: str, reason: str) -> None:
        """Its keys are wiped and its flows cut."""
        ...

    def orphaned(self, tunnel: TunnelDriver, reason: str) -> None:
        """Its channel is lost; the keys still hold."""
        ...


class TunnelDriver(ABC):
    """What both sides share: kairos_agent.tunnel and kairos_gateway.tunnel have the rest."""

    machine: EndpointTunnel | GatewayTunnel | None
    session: str

    def __init__(self, own: Own, tls: TlsChannel, channel: RelayChannel, owner: Owner, steps: Steps) -> None:
        self._own = own
        self._tls = tls
        self._channel = channel
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._messages = MessageStream()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(HANDSHAKE_WAIT_S, self._tls_is_late)
        self._session_ends_at = self._loop.time() + HANDSHAKE_WAIT_S
        self.machine = None
        self.peer: Peer | None = None
        self.steps = steps
        self.sessions: dict[int, int] = {}  # the data plane's, by VNI
        self._leases: dict[int, frozenset[Network]] = {}
        self.orphan = False
        self._was_up = False
        self.over = False

    @property
    def relay(self) -> int:
        """The data plane's queue towards the relay."""
        return self._channel.relay

    @property
    def relay_address(self) -> IPv4Address | IPv6Address | None:
        """Of the relay's host; None: the connection to it is lost."""
        return self._channel.relay_address

    @property
    def live(self) -> bool:
        return self.machine is not None and self.machine.state is State.ESTABLISHED

    def status(self) -> dict[str, Any]:
        """What `status` shows of any tunnel; its owner adds the path."""
        suite, secret = self._own.suite, self.machine.epoch_secret if self.machine is not None else None
        age = self._loop.time() - self.machine.epoch_began if self.machine is not None and secret is not None else None
        return {
            "peer": self.peer.node if self.peer is not None else self.steps.peer,
            "state": self.machine.state.name.lower() if self.machine is not None else "connecting",
            "suite": suite.name,
            "tls_group": suite.tls_group,
            "kem": suite.kem,
            "signature": suite.signature,
            "provider": self._own.provider.name,
            "epoch": secret.epoch if secret is not None else None,
            "epoch_age_s": round(age, 1) if age is not None else None,
            "session": self.session,
            "orphan": self.orphan,
            "vnis": sorted(self.sessions),
            "steps": self.steps.taken,
        }

    # -- from the relay link -----------------------------------------------------------------------------------------

    def stream_received(self, data: bytes) -> None:
        """STREAM bytes. Whatever is wrong with them ends the tunnel; it raises nothing."""
        if self.over:
            return
        try:
            plain = self._tls.receive(data)
            if self.machine is None and self._tls.peer is not None:
                self._secured(self._tls.peer)
            self._flush()
            for message in self._messages.feed_untrusted(plain):
                if self.machine is not None:
                    self.apply(self.machine.receive(message, self._loop.time()))
        except Refused as refusal:
            self.fail(refusal.code, str(refusal))
        except BadMessage as error:
            self.fail("bad-message", str(error))

    def channel_lost(self, code: str, reason: str) -> None:
        if self.over:
            return
        if not self.live:
            self._finish(code, reason)
            return
        self.orphan = True
        self._set_timer(self._session_ends_at)
        self._owner.orphaned(self, reason)

    # -- from the owner ----------------------------------------------------------------------------------------------

    def fail(self, code: str, reason: str) -> None:
        """T7: ends the tunnel and tells the peer why."""
        if self.over:
            return
        if self.machine is not None:
            self.apply(self.machine.close(code, reason))
        if not self.over:
            self._flush()
            self._finish(code, reason)

    def session_expires(self, at: float) -> None:
        """at: the event loop's time."""
        self._session_ends_at = at
        self._prolong()
        if self.machine is not None:
            self.machine.session_expires(at)
            self._arm()

    def apply(self, effects: protocol.Effects) -> None:
        """Carries out what the machine decided."""
        for effect in effects:
            if not self.over:
                self._carry_out(effect)
        if not self.over:
            self._arm()

    # -- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: protocol.Effect) -> None:
        dataplane = self._own.dataplane
        match effect:
            case protocol.Send(message):
                self._tls.send(encode(message))
                self._flush()
            case protocol.InstallReceive(epoch, keys):
                self._install(epoch, keys, transmit=False)
            case protocol.InstallTransmit(epoch, keys):
                self._install(epoch, keys, transmit=True)
                self.steps.note("T6", f"sending under epoch {epoch}")
            case protocol.RetireReceive(epoch):
                dataplane.retire_receive(epoch, list(self.sessions.values()))
            case protocol.PeerIndexes(indexes):
                for vni, index in indexes.items():
                    if vni in self.sessions:
                        dataplane.set_remote(self.sessions[vni], index)
            case protocol.Established():
                self._established()
            case protocol.Closed(code, reason):
                self._finish(code, reason)
            case _:
                self._carry_out_own(effect)

    def _install(self, epoch: int, keys: Mapping[int, VniKey], *, transmit: bool) -> None:
        """A VNI may have left the tunnel while these keys were agreed: then they are not needed."""
        not_after = boottime_ms(_KEY_LIFE_S + _HUNG_AFTER_S)
        self._own.dataplane.install_keys(
            [
                SessionKey(self.sessions[vni], epoch, key.key, key.iv, transmit, not_after)
                for vni, key in keys.items()
                if vni in self.sessions
            ]
        )

    @abstractmethod
    def _carry_out_own(self, effect: protocol.Effect) -> None:
        """Effects that only one side has."""

    @abstractmethod
    def _secured(self, peer: Peer) -> None:
        """T3 is done: TLS is established with this peer."""

    def _identities(self, peer: Peer) -> Identities:
        self.peer = peer
        self.steps.note("T3", f"mutual TLS with {peer.node}, {self._own.suite.tls_group}")
        return Identities(self._own.suite, self._own.provider, self._own.key, peer.public_key, self._tls.exporter())

    def _established(self) -> None:
        if not self._was_up:
            self._was_up = True
            self._own.timed(time.monotonic() - self.steps.began)
        self._owner.established(self)

    def _finish(self, code: str, reason: str) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        for session in self.sessions.values():
            self._own.cut(session)
        self.sessions.clear()
        self._channel.close(code, reason)
        self._owner.ended(self, code, reason)

    # -- data plane sessions -----------------------------------------------------------------------------------------

    def _ensure_session(self, vni: int, leases: Collection[Network], follow: bool) -> int:
        """The data plane's session of this VNI. A lease can grow but not shrink, so a smaller one is a new session, which
        gets its keys with the epoch that every Config brings."""
        wanted = frozenset(leases)
        known = self._leases.get(vni, frozenset())
        if vni in self.sessions and known <= wanted:
            session = self.sessions[vni]
        else:
            self._drop_session(vni)
            known = frozenset()
            session = self.sessions[vni] = self._own.dataplane.add_session(vni)
            self._own.dataplane.use_relay(session, self.relay, follow)
        self._leases[vni] = wanted
        self._set_deadline(vni)
        return session

    def _prolong(self) -> None:
        for vni in self.sessions:
            with contextlib.suppress(OSError):  # it was cut meanwhile
                self._set_deadline(vni)

    def _set_deadline(self, vni: int) -> None:
        """A lease is held for as long as the session is. The event loop's clock stands still in suspend, this one does not."""
        session, dataplane = self.sessions[vni], self._own.dataplane
        not_after = boottime_ms(self._session_ends_at - self._loop.time() + _HUNG_AFTER_S)
        dataplane.set_deadline(session, not_after)
        for prefix in self._leases[vni]:
            dataplane.add_lease(session, prefix, not_after)

    def _drop_session(self, vni: int) -> None:
        session = self.sessions.pop(vni, None)
        if session is not None:
            self._own.cut(session)

    # -- time and bytes ----------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        data = self._tls.outgoing()
        if not data or self.orphan:
            return
        try:
            self._channel.send_stream(data)
        except Refused as refusal:  # the peer reads nothing: the channel takes no last word either
            self.fail(refusal.code, str(refusal))

    def _arm(self) -> None:
        due = None if self.machine is None or self.orphan else self.machine.next_deadline()
        if due is not None:
            self._set_timer(due[0])

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        if self.orphan:
            self._finish("session-expired", "the session ended before the relay came back")
        elif self.machine is not None:
            self.apply(self.machine.tick(now))

    def _tls_is_late(self) -> None:
        self.fail("handshake-timeout", "the peer did not finish the TLS handshake")
