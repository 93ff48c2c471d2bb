"""Isolation cuts a device off everywhere until it is released; each enforcement point signs a receipt (docs/protocol.md
§8).

The state is in the SQLite of the tenant's object and is read before a node gets anything. Receipts are kept as they
arrive and shown with the certificate of their signer; the operator's command verifies them.
"""

from __future__ import annotations

import asyncio

from kairos.api.admin import IsolationReceipt, IsolationRecord
from kairos.api.push import Isolation, Receipt
from kairos.api.session import IsolationReport
from kairos.crypto import labels
from kairos.identity import transcript

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.devices import StoredDevice
from ..store.isolations import StoredIsolation, StoredReceipt
from . import issuer
from .event_sockets import EventSockets
from .journal import Journal
from .pushes import Pushes
from .sessions import Sessions

RELAY = "relay"  # the enforcement point that has no key; the fabric signs for it with the issuing key
_CUT_S = 60  # how long the relay refuses the device, for introspections that were under way; a release ends that
_TIME_MAX_MS = 1 << 50  # far in the future, and still a number that JavaScript and SQLite take exactly


class Isolations:
    """The isolations of one tenant's devices."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        pushes: Pushes,
        event_sockets: EventSockets,
        sessions: Sessions,
    ) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._pushes = pushes
        self._event_sockets = event_sockets
        self._sessions = sessions

    async def isolate(self, node: str, reason: str, actor: str) -> IsolationRecord:
        """Isolates a device. If it is isolated already, the same isolation is pushed to all nodes again. Raises
        not-found."""
        await self._active(node)
        isolation = await self._isolate(node, reason)
        self._journal.record("device.isolated", actor=actor, subject=node, reason=isolation.reason)
        return await self.show(node)

    async def report(self, gateway: str, report: IsolationReport) -> None:
        """A gateway reports that the signed policy isolates an endpoint.

        A gateway cannot be isolated by another one: an attacker who took over one gateway must not be able to remove
        the others. Raises wrong-role, not-found.
        """
        device = await self._active(report.node)
        if device.role != "endpoint":
            raise problem("wrong-role", f"{report.node} is a gateway: kairos isolate is for the operator to call")
        fresh = self._store.isolations.reason(report.node) is None
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

    async def release(self, node: str, reason: str, actor: str) -> IsolationRecord:
        """Ends the isolation. The device has to open a new session. Raises not-found."""
        if self._of(node).state != "isolated":
            raise problem("not-found", f"{node} is not isolated")
        self._store.isolations.release(node)
        await self._sessions.cut_at_relay(node, 0)
        self._pushes.to_all(_push(self._of(node)))
        await self._expect(node, [])
        self._journal.record("device.released", actor=actor, subject=node, reason=reason)
        return await self.show(node)

    async def show(self, node: str) -> IsolationRecord:
        """Raises not-found."""
        isolation = self._of(node)
        receipts = self._store.isolations.receipts(isolation.id, isolation.state)
        certificates = await self._store.certificates.present([each.point for each in receipts])
        current = self._platform.settings.issuer.certificate.der
        for each in receipts:
            if each.point == RELAY:
                certificates[RELAY] = self._store.issuers.one(each.issuer) or current
        return IsolationRecord(
            isolation.id,
            node,
            isolation.state,
            isolation.reason,
            isolation.at,
            isolation.expected,
            [
                IsolationReceipt(each.point, each.at_ms, each.signature, certificates.get(each.point, b""))
                for each in receipts
            ],
            [each for each in self._store.issuers.valid(self._platform.clock()) if each != current],
        )

    def current(self) -> list[Isolation]:
        """All isolations in force, which a node compares with its own state when it connects."""
        return [_push(isolation) for isolation in self._store.isolations.in_force()]

    def receipt(self, point: str, receipt: Receipt) -> None:
        """A node states that it has enforced an isolation. One for an unknown isolation is dropped."""
        if (
            len(receipt.signature) == self._platform.settings.suite.signature_bytes
            and 0 <= receipt.at_ms < _TIME_MAX_MS
            and self._store.isolations.is_known(receipt.isolation)
        ):
            self._store.isolations.add_receipt(
                receipt.isolation, StoredReceipt(point, receipt.state, receipt.at_ms, receipt.signature)
            )

    async def _isolate(self, node: str, reason: str) -> StoredIsolation:
        """Refuses the device at the fabric, pushes the isolation to all nodes, and cuts the device at the relay."""
        if self._store.isolations.reason(node) is None:
            now, id_ = int(self._platform.clock()), self._platform.entropy(16).hex()
            self._store.isolations.begin(StoredIsolation(id_, node, "isolated", reason, now, []))
        isolation = self._of(node)
        self._store.sessions.delete_of(node)
        self._pushes.to_all(_push(isolation))
        until = int(self._platform.clock()) + _CUT_S
        # At once: an event shard that does not answer must not delay the relay.
        _, cut = await asyncio.gather(self._expect(node, [RELAY]), self._sessions.cut_at_relay(node, until))
        if cut:
            await self._relay_receipt(self._of(node))
        return isolation

    async def _relay_receipt(self, isolation: StoredIsolation) -> None:
        at_ms = int(self._platform.clock() * 1000)
        signed = transcript.isolation_receipt(isolation.id, isolation.node, RELAY, isolation.state, at_ms)
        signature = await issuer.sign(self._platform, signed, labels.ISOLATION_RECEIPT)
        by = self._store.issuers.keep(self._platform.settings.issuer.certificate)
        self._store.isolations.add_receipt(isolation.id, StoredReceipt(RELAY, isolation.state, at_ms, signature, by))

    async def _expect(self, node: str, more: list[str]) -> None:
        """Receipts are due from every gateway, and from the device and its peers as far as they are connected."""
        gateways = {each.node for each in await self._store.devices.gateways()}
        vnis = (await self._store.leases.vnis_of([node])).get(node, [])
        peers = {*await self._store.leases.members(vnis), node} if vnis else {node}
        online = await self._event_sockets.online(peers)
        self._store.isolations.expect(node, more + sorted(gateways | online))

    async def _active(self, node: str) -> StoredDevice:
        device = await self._store.devices.one(node)
        if device is None or not device.active:
            raise problem("not-found", f"there is no active device {node}")
        return device

    def _of(self, node: str) -> StoredIsolation:
        isolation = self._store.isolations.one(node)
        if isolation is None:
            raise problem("not-found", f"{node} was never isolated")
        return isolation


def _push(isolation: StoredIsolation) -> Isolation:
    return Isolation(isolation.id, isolation.node, isolation.state, isolation.reason)
