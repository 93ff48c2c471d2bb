"""One tunnel set-up, T3 to T6, between two real ends in one process, with what each end spent on it.

Both ends are what the daemons use: TLS with ML-DSA certificates, the tunnel machines, a crypto provider. Their bytes are
carried by hand, so that nothing but their own work is on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from issued import Authority
from kairos.crypto.provider import Provider
from kairos.crypto.suites import Suite
from kairos.protocol import tunnel as protocol
from kairos.protocol.tunnel import EndpointTunnel, GatewayTunnel, Identities, State
from kairos.wire.control import Config, MessageStream, VniConfig, encode
from kairos_node.certificates import Peer, verify_peer_untrusted
from kairos_node.tls import TlsChannel

_SESSION = "s-0123456789abcdef"
_CONFIG = Config(
    1, (VniConfig(7, "office", 101, 1380, ("10.7.0.2/24", "fd07::2/64"), ("10.7.0.0/24", "fd07::/64"), ""),), ()
)
_TURNS_MAX = 20


class End:
    """One side of many set-ups. cpu_s: what all of them cost it; sent: bytes of the last one."""

    def __init__(self, authority: Authority, side: Literal["client", "server"]) -> None:
        self._side, self._authority = side, authority
        role, self._peer_role = ("endpoint", "gateway") if side == "client" else ("gateway", "endpoint")
        self._credentials = authority.issue(f"{role}-1", role)
        self._key = authority.provider.signing_key(authority.suite, self._credentials.seed)
        self.cpu_s = 0.0
        self.sent = 0

    def begin(self) -> None:
        """A connection without memory of the one before."""
        with self._working():
            self._tls = TlsChannel(self._side, self._credentials, self._check)
            self._messages = MessageStream()
            self.machine: EndpointTunnel | GatewayTunnel | None = None
            self.sent = 0
            if self._side == "client":
                self._tls.start()

    def take(self) -> bytes:
        """What goes to the peer now."""
        with self._working():
            data = self._tls.outgoing()
        self.sent += len(data)
        return data

    def receive(self, data: bytes) -> None:
        with self._working():
            plain = self._tls.receive(data)
            if self.machine is None and self._tls.peer is not None:
                self.machine = self._tunnel(self._tls.peer.public_key)
            for message in self._messages.feed_untrusted(plain):
                if self.machine is not None:
                    self._apply(self.machine.receive(message, time.monotonic()))

    @property
    def established(self) -> bool:
        return self.machine is not None and self.machine.state is State.ESTABLISHED

    def held(self) -> object:
        """What stays in memory for the last set-up, for as long as someone keeps it."""
        return self._tls, self._messages, self.machine

    def _tunnel(self, peer_key: bytes) -> EndpointTunnel | GatewayTunnel:
        authority = self._authority
        identities = Identities(authority.suite, authority.provider, self._key, peer_key, self._tls.exporter())
        if self._side == "server":
            return GatewayTunnel(identities, time.monotonic())
        endpoint = EndpointTunnel(identities, _SESSION, time.monotonic())
        self._apply(endpoint.start("bench"))
        return endpoint

    def _apply(self, effects: protocol.Effects) -> None:
        for effect in effects:
            match effect, self.machine:
                case protocol.Send(message), _:
                    self._tls.send(encode(message))
                case protocol.VerifySession(), GatewayTunnel() as gateway:
                    now = time.monotonic()
                    self._apply(gateway.accept(_CONFIG, now + 300, now))
                case protocol.Configure(config), EndpointTunnel() as endpoint:
                    self._apply(endpoint.confirm(config.revision, {7: 202}, time.monotonic()))
                case protocol.Closed(code, reason), _:
                    raise RuntimeError(f"{self._side}: {code}: {reason}")
                case _:
                    pass  # keys for a data plane, which is measured elsewhere

    def _check(self, chain: Sequence[bytes]) -> Peer:
        authority = self._authority
        return verify_peer_untrusted(
            authority.provider, authority.trust, chain, tenant="acme", role=self._peer_role, now=authority.now
        )

    @contextmanager
    def _working(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.cpu_s += time.thread_time() - began


class TunnelPair:
    """An endpoint and a gateway of one fabric."""

    def __init__(self, suite: Suite, provider: Provider) -> None:
        authority = Authority(provider, suite)
        self.endpoint, self.gateway = End(authority, "client"), End(authority, "server")

    def set_up(self) -> None:
        """T3 to T6. Raises RuntimeError, or what either end raised."""
        self.endpoint.begin()
        self.gateway.begin()
        for _ in range(_TURNS_MAX):
            self.gateway.receive(self.endpoint.take())
            self.endpoint.receive(self.gateway.take())
            if self.endpoint.established and self.gateway.established:
                return
        raise RuntimeError("the ends do not agree on a tunnel")
