"""A device cut off everywhere at once, until it is released; each place that enforces it signs a receipt (docs/protocol.md §8).

The truth is in the Tenant object's own SQLite: it is read before anything is given to a node. Receipts are kept as they come,
with the certificate of whoever signed; it is the operator's command that verifies them.
"""

from __future__ import annotations

import json

from kairos.api.admin import IsolationReceipt, IsolationRecord, Reason
from kairos.api.push import Isolation, IsolationState, Receipt
from kairos.api.session import IsolationReport
from kairos.crypto import labels
from kairos.identity import transcript

from ..http.call import Call, Reply, reply
from ..ports import Row, TenantPlatform
from ..problems import problem
from ..store.certificates import CertificateStore
from ..store.records import b64, device_of, gateways_of, unb64
from . import issuer
from .journal import Journal
from .pushes import Pushes
from .sessions import Sessions

RELAY = "relay"  # the enforcement point that is no node; the fabric signs for it, with the issuing key
_CUT_S = 60  # how long the relay remembers, for lookups that were under way; a release makes it forget


class Isolations:
    def __init__(self, platform: TenantPlatform, journal: Journal, pushes: Pushes, sessions: Sessions) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes
        self._sessions = sessions

    async def isolate(self, call: Call) -> Reply:
        """Asked again for one that is isolated, it is told again to everyone, under the same id."""
        node, reason = call.parameters["node"], call.decode(Reason).reason
        await self._require_device(node)
        await self._isolate(node, reason)
        self._journal.record("device.isolated", actor=call.actor, subject=node, reason=self._of(node)["reason"])
        return reply(await self._record(node))

    async def report(self, call: Call) -> Reply:
        """A gateway says that the signed policy isolates an endpoint. Only gateways judge, and no gateway is judged by another:
        whoever took over one of them must not be able to take the rest away."""
        if call.node.role != "gateway":
            raise problem("wrong-role", "only a gateway reports for isolation")
        report, gateway = call.decode(IsolationReport), call.node.node
        device = await self._require_device(report.node)
        if device["role"] != "endpoint":
            raise problem("wrong-role", f"{report.node} is a gateway: kairos isolate is for the operator to call")
        fresh = not self._is_isolated(report.node)
        await self._isolate(report.node, report.reason)
        if fresh:
            self._journal.record(
                "device.isolated",
                actor="policy",
                subject=report.node,
                rule=report.rule,
                reason=report.reason,
                reported_by=gateway,
                policy_version=report.policy_version,
                counts=report.counts,
                posture=report.posture,
            )
        return reply(None)

    async def _isolate(self, node: str, reason: str) -> None:
        """Refused here, told to everyone, cut at the relay."""
        if not self._is_isolated(node):
            self._platform.local.write(
                "INSERT INTO isolations (node, id, state, reason, at, expected) VALUES (?, ?, 'isolated', ?, ?, ?)"
                " ON CONFLICT (node) DO UPDATE SET id = excluded.id, state = 'isolated', reason = excluded.reason,"
                " at = excluded.at, expected = excluded.expected",
                node, self._platform.entropy(16).hex(), reason, int(self._platform.clock()), "[]",
            )  # fmt: skip
        self._sessions.forget(node)
        self._pushes.to_all(self._push(node))
        await self._expect(node, [RELAY])
        if await self._sessions.cut_at_relay(node, int(self._platform.clock()) + _CUT_S):
            await self._relay_receipt(node)

    async def release(self, call: Call) -> Reply:
        """The device may come back; its sessions are gone, it opens a new one."""
        node, reason = call.parameters["node"], call.decode(Reason).reason
        if self._of(node)["state"] != "isolated":
            raise problem("not-found", f"{node} is not isolated")
        self._platform.local.write("UPDATE isolations SET state = 'released' WHERE node = ?", node)
        await self._sessions.cut_at_relay(node, 0)
        self._pushes.to_all(self._push(node))
        await self._expect(node, [])
        self._journal.record("device.released", actor=call.actor, subject=node, reason=reason)
        return reply(await self._record(node))

    async def show(self, call: Call) -> Reply:
        return reply(await self._record(call.parameters["node"]))

    def current(self) -> list[Isolation]:
        """Everything that is isolated now: what a node compares itself with when it connects."""
        rows = self._platform.local.rows("SELECT node FROM isolations WHERE state = 'isolated' ORDER BY node")
        return [self._push(row["node"]) for row in rows]

    def receipt(self, point: str, receipt: Receipt) -> None:
        """A node's word that it has enforced it. One for an isolation that nobody knows is dropped."""
        known = self._platform.local.rows("SELECT node FROM isolations WHERE id = ?", receipt.isolation)
        if known and len(receipt.signature) == self._platform.settings.suite.signature_bytes:
            self._keep(receipt.isolation, point, receipt.state, receipt.at_ms, receipt.signature)

    async def _relay_receipt(self, node: str) -> None:
        row, at_ms = self._of(node), int(self._platform.clock() * 1000)
        signed = transcript.isolation_receipt(row["id"], node, RELAY, row["state"], at_ms)
        signature = await issuer.sign(self._platform, signed, labels.ISOLATION_RECEIPT)
        self._keep(row["id"], RELAY, row["state"], at_ms, signature)

    def _keep(self, isolation: str, point: str, state: str, at_ms: int, signature: bytes) -> None:
        self._platform.local.write(
            "INSERT INTO receipts (id, point, state, at_ms, signature) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            isolation, point, state, at_ms, b64(signature),
        )  # fmt: skip

    async def _expect(self, node: str, more: list[str]) -> None:
        """Who must answer: every gateway, the device itself and its peers as far as they are connected."""
        online = self._platform.sockets.online()
        gateways = {row["node"] for row in await gateways_of(self._platform.database, self._platform.tenant)}
        peers = await self._platform.database.rows(
            "SELECT DISTINCT node FROM leases WHERE vni IN (SELECT vni FROM leases WHERE tenant = ? AND node = ?)",
            self._platform.tenant,
            node,
        )
        expected = gateways | ({row["node"] for row in peers} | {node}) & online
        self._platform.local.write(
            "UPDATE isolations SET expected = ? WHERE node = ?", json.dumps(more + sorted(expected)), node
        )

    async def _record(self, node: str) -> IsolationRecord:
        row = self._of(node)
        kept = self._platform.local.rows(
            "SELECT * FROM receipts WHERE id = ? AND state = ? ORDER BY at_ms", row["id"], row["state"]
        )
        store = CertificateStore(self._platform.database, self._platform.tenant)
        certificates = await store.present(each["point"] for each in kept)
        certificates[RELAY] = self._platform.settings.issuer.certificate.der
        receipts = [
            IsolationReceipt(
                each["point"], each["at_ms"], unb64(each["signature"]), certificates.get(each["point"], b"")
            )
            for each in kept
        ]
        return IsolationRecord(
            row["id"], node, row["state"], row["reason"], row["at"], json.loads(row["expected"]), receipts
        )

    async def _require_device(self, node: str) -> Row:
        row = await device_of(self._platform.database, self._platform.tenant, node)
        if row is None or row["status"] != "active":
            raise problem("not-found", f"there is no active device {node}")
        return row

    def _is_isolated(self, node: str) -> bool:
        row = self._row(node)
        return row is not None and row["state"] == "isolated"

    def _push(self, node: str) -> Isolation:
        row = self._of(node)
        state: IsolationState = "isolated" if row["state"] == "isolated" else "released"
        return Isolation(row["id"], node, state, row["reason"])

    def _of(self, node: str) -> Row:
        row = self._row(node)
        if row is None:
            raise problem("not-found", f"{node} was never isolated")
        return row

    def _row(self, node: str) -> Row | None:
        rows = self._platform.local.rows("SELECT * FROM isolations WHERE node = ?", node)
        return rows[0] if rows else None
