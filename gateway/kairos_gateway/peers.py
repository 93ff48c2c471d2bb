"""The endpoints that are here: their tunnels, their routes, their paths."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol, cast

from kairos.protocol.path import format_address
from kairos_dataplane import PathKind, PathMoved
from kairos_dataplane.engine import Network
from kairos_gateway.sessions import Session
from kairos_gateway.tunnel import GatewayDriver
from kairos_node.tunnel import TunnelDriver
from kairos_node.vnis import Vnis

_log = logging.getLogger(__name__)


class Home(Protocol):
    """The gateway, as its peers need it."""

    vnis: Vnis

    def taken_over(self, node: str) -> None:
        """A tunnel that was in use was replaced by one of another session."""
        ...

    def routes_of(self, tunnel: GatewayDriver) -> Mapping[int, set[Network]]: ...


class Peers:
    """One tunnel a node: a newer one replaces the older once its keys are in place."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._tunnels: dict[str, GatewayDriver] = {}
        self._paths: dict[int, str] = {}  # of data plane sessions that moved

    # -- what tunnels tell -------------------------------------------------------------------------------------------

    def established(self, tunnel: TunnelDriver) -> None:
        tunnel = cast(GatewayDriver, tunnel)
        assert tunnel.peer is not None
        node = tunnel.peer.node
        older = self._tunnels.get(node)
        self._tunnels[node] = tunnel
        self.lead(tunnel)
        if older is not None and older is not tunnel:
            if not older.orphan and older.session != tunnel.session:
                self._home.taken_over(node)
            older.fail("replaced", "a newer tunnel of the same node took its place")
        _log.info("%s is here, session %s", node, tunnel.session[:8])

    def ended(self, tunnel: TunnelDriver, code: str, reason: str) -> None:
        node = tunnel.peer.node if tunnel.peer is not None else tunnel.steps.peer
        if self._tunnels.get(node) is tunnel:
            del self._tunnels[node]
        if code != "replaced":
            _log.warning("the tunnel of %s ended: %s (%s)", node, reason, code)

    def orphaned(self, tunnel: TunnelDriver, reason: str) -> None:
        assert tunnel.peer is not None
        _log.warning("%s lost its relay channel: %s", tunnel.peer.node, reason)

    # -- what the gateway tells --------------------------------------------------------------------------------------

    def has(self, node: str) -> bool:
        return node in self._tunnels

    def session_of(self, node: str) -> str:
        tunnel = self._tunnels.get(node)
        return tunnel.session if tunnel is not None else ""

    def live(self) -> list[GatewayDriver]:
        return [tunnel for tunnel in self._tunnels.values() if tunnel.live]

    def lead(self, tunnel: GatewayDriver) -> None:
        """What is the endpoint's leads into its tunnel."""
        for vni, prefixes in self._home.routes_of(tunnel).items():
            self._home.vnis.lead(vni, tunnel.sessions[vni], prefixes)

    def renewed(self, session: Session) -> None:
        tunnel = self._tunnels.get(session.node)
        if tunnel is not None and tunnel.session == session.session:
            tunnel.session_expires(session.expires_at)

    def end_session(self, session: str) -> None:
        for tunnel in list(self._tunnels.values()):
            if tunnel.session == session:
                tunnel.fail("session-ended", "the fabric ended this session")

    def cut(self, node: str, code: str, reason: str) -> None:
        tunnel = self._tunnels.get(node)
        if tunnel is not None:
            tunnel.fail(code, reason)

    def close(self, code: str, reason: str) -> None:
        for tunnel in list(self._tunnels.values()):
            tunnel.fail(code, reason)

    def moved(self, event: PathMoved) -> None:
        direct = event.kind is PathKind.DIRECT and event.address is not None
        self._paths[event.session] = format_address(event.address) if direct and event.address is not None else ""
        live = {session for tunnel in self._tunnels.values() for session in tunnel.sessions.values()}
        self._paths = {session: path for session, path in self._paths.items() if session in live}

    def limited(self, session: int, limit: int) -> None:
        """One endpoint's word, for all of its sessions."""
        for tunnel in self._tunnels.values():
            if session in tunnel.sessions.values():
                tunnel.limit(limit)

    def status(self) -> list[dict[str, Any]]:
        return [self._status(tunnel) for _, tunnel in sorted(self._tunnels.items())]

    def _status(self, tunnel: GatewayDriver) -> dict[str, Any]:
        """provider: the endpoint's, as its Hello says."""
        address = next((path for each in tunnel.sessions.values() if (path := self._paths.get(each, ""))), "")
        hello = tunnel.machine.hello if tunnel.machine is not None else None
        return tunnel.status() | {
            "path": "direct" if address else "relay",
            "address": address,
            "provider": hello.provider if hello is not None else "",
        }
