"""T1: session tokens, their truth, and their end (docs/protocol.md §7)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection

from kairos.api.push import Revocation, SessionNotice
from kairos.api.session import Cut, GatewayAddress, Introspected, Introspection, SessionGrant, SessionRequest
from kairos.constants import SESSION_LIFE_S
from kairos.identity.spiffe import is_gateway

from ..http.call import Call, Reply, reply
from ..ports import Row, TenantPlatform
from ..problems import problem
from ..store.leases import LeaseStore
from ..store.records import gateways_of, refuse_isolated
from .gateways import ranked
from .journal import Journal
from .postures import Postures, check_posture
from .pushes import Pushes
from .rate_limits import SESSION, Limits

LIVE_MAX = 16  # sessions of one node: the oldest gives way
_TOKEN_BYTES = 32


class Sessions:
    def __init__(
        self,
        platform: TenantPlatform,
        leases: LeaseStore,
        journal: Journal,
        pushes: Pushes,
        postures: Postures,
        limits: Limits,
    ) -> None:
        self._platform = platform
        self._leases = leases
        self._postures = postures
        self._limits = limits
        self._journal = journal
        self._pushes = pushes
        self._revoked: set[str] = (
            set()
        )  # while this object lives: opening a session awaits, and a revocation may come between

    async def open(self, call: Call) -> Reply:
        """T1: a new session, or a longer life for one (`renews`). A gateway's session opens its own relay socket only."""
        wanted = call.decode(SessionRequest)
        check_posture(wanted.posture)
        node, role = call.node.node, call.node.role
        self._limits.take(SESSION, node)
        gateways = [node] if role == "gateway" else await self._gateways(wanted.gateway)
        vnis = await self._vnis_of(node)
        session = self._renewable(wanted.renews, node)["session"] if wanted.renews else self._platform.entropy(16).hex()
        secret = base64.urlsafe_b64encode(self._platform.entropy(_TOKEN_BYTES)).rstrip(b"=").decode()
        token = f"{self._platform.tenant}.{secret}"
        now = int(self._platform.clock())
        expires_at = min(now + self._platform.settings.session_life_s, call.node.not_after)
        version = await self._platform.database.first(
            "SELECT max(version) AS version FROM policies WHERE tenant = ?", self._platform.tenant
        )
        policy_version = version["version"] or 0 if version else 0
        if node in self._revoked:
            raise problem("revoked", "ask your operator")
        refuse_isolated(self._platform.local, node)
        self._platform.local.write(
            "INSERT INTO sessions (session, token_hash, node, role, gateways, vnis, posture, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session) DO UPDATE SET token_hash = excluded.token_hash,"
            " gateways = excluded.gateways, vnis = excluded.vnis, posture = excluded.posture, expires_at = excluded.expires_at",
            session, _hash(token), node, role, json.dumps(gateways), json.dumps(vnis), json.dumps(wanted.posture), expires_at,
        )  # fmt: skip
        self._platform.local.write(
            "DELETE FROM sessions WHERE node = ? AND session NOT IN"
            " (SELECT session FROM sessions WHERE node = ? ORDER BY expires_at DESC, rowid DESC LIMIT ?)",
            node, node, LIVE_MAX,
        )  # fmt: skip
        if role == "endpoint":
            at = self._postures.learn(node, wanted.posture)
            notice = SessionNotice(session, node, vnis, expires_at, wanted.posture, at)
            self._pushes.to_gateways(notice)
        self._journal.record(
            "session.renewed" if wanted.renews else "session.opened", actor=node, subject=session, outcome="allow"
        )
        relay = self._platform.settings.relay_url
        addresses = [GatewayAddress(each, f"{relay}/v1/relay/{each}", 100 + n) for n, each in enumerate(gateways)]
        grant = SessionGrant(session, token, expires_at, vnis, addresses, policy_version, expires_at - now)
        return reply(grant, 201)

    async def end(self, call: Call) -> Reply:
        """T7, by the node itself."""
        session = self._renewable(call.parameters["session"], call.node.node)
        self._platform.local.write("DELETE FROM sessions WHERE session = ?", session["session"])
        self._journal.record("session.ended", actor=call.node.node, subject=session["session"])
        return reply(None)

    def introspect(self, wanted: Introspection) -> Introspected:
        """T2, asked by the relay. Raises unauthorized for a token that is unknown, over, or for another gateway."""
        rows = self._platform.local.rows("SELECT * FROM sessions WHERE token_hash = ?", _hash(wanted.token))
        if not rows or rows[0]["expires_at"] <= self._platform.clock():
            raise problem("unauthorized", "the session token is not valid; open a session again")
        session = rows[0]
        if wanted.gateway not in json.loads(session["gateways"]):
            raise problem("unauthorized", f"the session is not for {wanted.gateway}")
        return Introspected(
            session["node"], self._platform.tenant, session["role"], session["session"], session["expires_at"]
        )

    async def revoke(self, node: str, reason: str) -> None:
        """Every session of the node is over, at every place that could still honour one."""
        self._revoked.add(node)
        self.forget(node)
        self._pushes.to_all(Revocation(node, reason))
        self._platform.sockets.close(node, 4003, "revoked")
        await self.cut_at_relay(node, int(self._platform.clock()) + SESSION_LIFE_S)

    async def revoke_all(self, nodes: Collection[str]) -> None:
        """Every session of these nodes, which are all of a tenant that is deleted. The relay is called once a gateway and not once a
        node: the end of a gateway's socket there is the end of all its channels. Each node is told by the close of its events."""
        self._revoked.update(nodes)
        self._platform.local.write("DELETE FROM sessions")
        for node in self._platform.sockets.online():
            self._platform.sockets.close(node, 4003, "revoked")
        until = int(self._platform.clock()) + SESSION_LIFE_S
        for gateway in filter(is_gateway, nodes):
            if not await self._platform.relay.cut(Cut(until, [gateway], gateway)):
                self._journal.record(
                    "relay.unreachable", actor="fabric", subject=gateway, reason="the relay was not told to cut"
                )

    def forget(self, node: str) -> None:
        """Its tokens open nothing any more."""
        self._platform.local.write("DELETE FROM sessions WHERE node = ?", node)

    async def cut_at_relay(self, node: str, until: int) -> bool:
        """Its sockets there end, and none is let in before `until` (Unix seconds). False: the relay was not told."""
        gateways = [row["node"] for row in await gateways_of(self._platform.database, self._platform.tenant)]
        told = await self._platform.relay.cut(Cut(until, [*gateways, node] if is_gateway(node) else gateways, node))
        if not told:
            self._journal.record(
                "relay.unreachable", actor="fabric", subject=node, reason="the relay was not told to cut"
            )
        return told

    def current(self) -> list[SessionNotice]:
        """Endpoints' sessions that live now: what a gateway needs to know when it comes back."""
        rows = self._platform.local.rows(
            "SELECT * FROM sessions WHERE role = 'endpoint' AND expires_at > ?", int(self._platform.clock())
        )
        return [
            SessionNotice(
                row["session"],
                row["node"],
                json.loads(row["vnis"]),
                row["expires_at"],
                *self._postures.newest(row["node"]),
            )
            for row in rows
        ]

    async def refresh(self, nodes: Collection[str]) -> None:
        """These nodes are in other VNIs now: their sessions follow, and the gateways are told."""
        vnis, changed = await self._leases.vnis_of(nodes), set(nodes)
        for node in changed:
            self._platform.local.write(
                "UPDATE sessions SET vnis = ? WHERE node = ?", json.dumps(vnis.get(node, [])), node
            )
        for notice in self.current():
            if notice.node in changed:
                self._pushes.to_gateways(notice)

    async def _vnis_of(self, node: str) -> list[int]:
        return (await self._leases.vnis_of([node])).get(node, [])

    def forget_ended(self) -> None:
        self._platform.local.write("DELETE FROM sessions WHERE expires_at <= ?", int(self._platform.clock()))

    async def _gateways(self, wanted: str) -> list[str]:
        """The tenant's gateways, those that are connected first, then by priority; only `wanted` where one is asked for."""
        online = self._platform.sockets.online()
        nodes = [row["node"] for row in await ranked(self._platform)]
        nodes.sort(key=lambda node: node not in online)
        if wanted:
            nodes = [node for node in nodes if node == wanted]
        if not nodes:
            raise problem(
                "no-gateway", f"{wanted} is no gateway of this tenant" if wanted else "enroll a gateway first"
            )
        return nodes

    def _renewable(self, session: str, node: str) -> Row:
        rows = self._platform.local.rows("SELECT * FROM sessions WHERE session = ? AND node = ?", session, node)
        if not rows or rows[0]["expires_at"] <= self._platform.clock():
            raise problem("session-ended", "open a new session")
        return rows[0]


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
