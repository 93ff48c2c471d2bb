"""T1 and T7: sessions are opened, renewed, introspected and ended (docs/protocol.md §7)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable

from kairos.api.problem import ProblemError
from kairos.api.push import Revocation, SessionNotice
from kairos.api.session import Cut, GatewayAddress, Introspected, Introspection, SessionGrant, SessionRequest
from kairos.constants import POSTURE_LATE_S, SESSION_LIFE_S
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.devices import StoredDevice
from ..store.postures import StoredPosture
from ..store.sessions import StoredSession
from .event_sockets import EventSockets
from .journal import Journal
from .postures import Postures, check_posture
from .pushes import Pushes
from .rate_limits import SESSION, Limits

LIVE_MAX = 16  # live sessions of one node; a further one ends the oldest
_REVOKED = (4003, "revoked")  # close code and reason of an events socket
_TOKEN_BYTES = 32
_NO_POSTURE = StoredPosture("", 0, {})


class Sessions:
    """The sessions of one tenant's nodes."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        pushes: Pushes,
        event_sockets: EventSockets,
        postures: Postures,
        limits: Limits,
    ) -> None:
        self._platform = platform
        self._store = store
        self._postures = postures
        self._limits = limits
        self._journal = journal
        self._pushes = pushes
        self._event_sockets = event_sockets
        # Nodes that were revoked since this object was loaded. Opening a session awaits, so a revocation may come in
        # between.
        self._revoked = set[str]()
        self._refreshed = 0  # how often sessions have followed a change of VNIs; that may come in between as well

    async def open(self, device: StoredDevice, request: SessionRequest) -> SessionGrant:
        """T1: a new session, or a longer life for one (`renews`). A gateway's session opens its own relay socket only.

        Raises a ProblemError: invalid, session-ended, no-gateway, revoked, isolated, too-many-requests.
        """
        check_posture(request.posture)
        node = device.node
        self._limits.take(SESSION, node)
        gateways = [node] if device.role == "gateway" else await self._gateways(request.gateway)
        policy_version = await self._store.policies.newest_version()
        vnis = await self._vnis(node)
        now = int(self._platform.clock())
        session = self._of(request.renews, node).session if request.renews else self._platform.entropy(16).hex()
        if node in self._revoked:
            raise problem("revoked", "ask your operator")
        self._store.isolations.refuse(node)
        secret = base64.urlsafe_b64encode(self._platform.entropy(_TOKEN_BYTES)).rstrip(b"=").decode()
        token = f"{self._platform.tenant}.{secret}"
        expires_at = min(now + self._platform.settings.session_life_s, device.not_after)
        stored = StoredSession(session, _hash(token), node, device.role, gateways, vnis, expires_at)
        self._store.sessions.put(stored)
        self._store.sessions.keep_newest(node, LIVE_MAX)
        if device.role == "endpoint":
            at = self._postures.learn(node, request.posture)
            self._pushes.to_gateways(_notice(stored, StoredPosture(node, at, request.posture)))
        if not request.renews:  # a renewal decides nothing that opening did not
            self._journal.record("session.opened", actor=node, subject=session, outcome="allow")
        relay = self._platform.settings.relay_url
        addresses = [GatewayAddress(each, f"{relay}/v1/relay/{each}", 100 + n) for n, each in enumerate(gateways)]
        return SessionGrant(session, token, expires_at, vnis, addresses, policy_version, expires_at - now)

    def end(self, session: str, node: str) -> None:
        """T7, by the node itself. Raises session-ended."""
        self._store.sessions.delete(self._of(session, node).session)
        self._journal.record("session.ended", actor=node, subject=session)

    def introspect(self, request: Introspection) -> Introspected:
        """T2, asked by the relay. Raises unauthorized for a token that is unknown, over, or for another gateway."""
        session = self._store.sessions.by_token(_hash(request.token), int(self._platform.clock()))
        if session is None:
            raise unknown_session()
        if request.gateway not in session.gateways:
            raise problem("unauthorized", f"the session is not for {request.gateway}")
        return Introspected(session.node, self._platform.tenant, session.role, session.session, session.expires_at)

    async def revoke(self, node: str, reason: str) -> None:
        """Ends every session of the node, at the fabric, at every peer and at the relay."""
        self._revoked.add(node)
        self._store.sessions.delete_of(node)
        self._pushes.to_all(Revocation(node, reason))
        self._event_sockets.close(node, *_REVOKED)
        await self.cut_at_relay(node, int(self._platform.clock()) + SESSION_LIFE_S)

    def is_revoked(self, node: str) -> bool:
        """Whether the node was revoked since this object was loaded. A caller may have been authenticated before
        that."""
        return node in self._revoked

    async def revoke_all(self, nodes: Collection[str]) -> None:
        """Ends every session of these nodes, which are all nodes of a tenant that is deleted.

        The relay is called once for each gateway and not for each node, because all channels of a gateway end with its
        socket. The close of its events socket informs a node.
        """
        self._revoked.update(nodes)
        self._store.sessions.clear()
        self._event_sockets.close_all(*_REVOKED)
        until = int(self._platform.clock()) + SESSION_LIFE_S
        for gateway in filter(is_gateway, nodes):
            if not await self._platform.relay.cut(Cut(until, [gateway], gateway)):
                self._journal.record(
                    "relay.unreachable", actor="fabric", subject=gateway, reason="the relay was not told to cut"
                )

    async def cut_at_relay(self, node: str, until: int) -> bool:
        """Closes the node's sockets at the relay, which refuses new ones until `until` (Unix seconds). False: the
        relay did not answer."""
        gateways = [each.node for each in await self._store.devices.gateways()]
        reached = await self._platform.relay.cut(Cut(until, [*gateways, node] if is_gateway(node) else gateways, node))
        if not reached:
            self._journal.record(
                "relay.unreachable", actor="fabric", subject=node, reason="the relay was not told to cut"
            )
        return reached

    def current(self) -> list[SessionNotice]:
        """The live sessions of endpoints, each with its newest posture: what a gateway needs when it connects."""
        now = int(self._platform.clock())
        postures = self._store.postures.since(now - POSTURE_LATE_S)
        return [_notice(each, postures.get(each.node, _NO_POSTURE)) for each in self._store.sessions.of_endpoints(now)]

    async def refresh(self, nodes: Iterable[str]) -> None:
        """Updates the sessions of nodes whose VNIs have changed, and pushes them to the gateways."""
        now = int(self._platform.clock())
        nodes = list(nodes)
        found = await self._store.leases.vnis_of(nodes)
        self._refreshed += 1
        for node in nodes:
            self._store.sessions.set_vnis(node, found.get(node, []))
            posture = self._store.postures.one(node) or _NO_POSTURE
            for session in self._store.sessions.of_node(node, now):
                if session.role == "endpoint":
                    self._pushes.to_gateways(_notice(session, posture))

    async def _vnis(self, node: str) -> list[int]:
        """The VNIs that it is in now. What was read before other sessions followed a change is read again: a session that is kept
        after that would be for a VNI that its node was put out of."""
        while True:
            refreshed = self._refreshed
            vnis = (await self._store.leases.vnis_of([node])).get(node, [])
            if refreshed == self._refreshed:
                return vnis

    async def _gateways(self, wanted: str) -> list[str]:
        """The tenant's gateways, those that are connected first, then by priority; only `wanted` where one is asked
        for."""
        nodes = [each.node for each in await self._store.gateways.ranked()]
        online = set(self._platform.sockets.gateways())
        nodes.sort(key=lambda node: node not in online)
        if wanted:
            nodes = [node for node in nodes if node == wanted]
        if not nodes:
            raise problem(
                "no-gateway", f"{wanted} is no gateway of this tenant" if wanted else "enroll a gateway first"
            )
        return nodes

    def _of(self, session: str, node: str) -> StoredSession:
        """Raises session-ended."""
        found = self._store.sessions.one(session, node, int(self._platform.clock()))
        if found is None:
            raise problem("session-ended", "open a new session")
        return found


def unknown_session() -> ProblemError:
    """What the relay is told of a token that opens nothing, whether the tenant that it names exists or not."""
    return problem("unauthorized", "the session token is not valid; open a session again")


def _notice(session: StoredSession, posture: StoredPosture) -> SessionNotice:
    return SessionNotice(session.session, session.node, session.vnis, session.expires_at, posture.facts, posture.at)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
