"""Keeps the newest signed policy in force: from disk at the start, from the fabric when it says there is another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from kairos.api.problem import ProblemError
from kairos.api.session import PolicyRecord
from kairos.audit.event import Event
from kairos.crypto.provider import Provider
from kairos.errors import BadMessage, Refused
from kairos.policy.decision import Decision, deny
from kairos_node.fabric import FabricClient
from kairos_node.policy import Choice, PolicyEngine
from kairos_node.policy.bundle import Bundle, unpack_untrusted, verify_untrusted
from kairos_node.spool import event_of
from kairos_node.state import Identity, NodeState

_log = logging.getLogger(__name__)


class PolicyKeeper:
    """changed: called after another version came into force; record: what the audit must know."""

    def __init__(
        self,
        state: NodeState,
        identity: Identity,
        provider: Provider,
        client: FabricClient,
        changed: Callable[[], None],
        record: Callable[[Event], None],
        choice: Choice,
    ) -> None:
        self._state, self._identity, self._provider, self._client = state, identity, provider, client
        self._changed, self._record = changed, record
        self._choice = choice
        self._engine: PolicyEngine | None = None
        self._turn = asyncio.Lock()

    @property
    def version(self) -> int:
        """0: none is in force, and everything is denied."""
        return 0 if self._engine is None else self._engine.version

    @property
    def reads_source_port(self) -> bool:
        """A decision on a flow may depend on the port that it comes from."""
        return self._engine is None or self._engine.reads_source_port

    def decide(self, point: str, document: dict[str, Any]) -> Decision:
        if self._engine is None:
            return deny("no policy is in force yet", "deny:no-policy")
        return self._engine.decide(point, document)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    async def restore(self) -> None:
        """The last bundle that was believed, believed again."""
        try:
            kept = self._state.policy
            if kept is not None:
                await self._load_untrusted(*kept)
        except (Refused, BadMessage) as error:
            _log.warning("the stored policy is not used: %s", error)

    async def refresh(self, announced: PolicyRecord | None = None) -> None:
        """Fetches a newer version. announced: what the fabric says is in force, which saves asking. Raises ConnectionError;
        a bundle that does not hold is refused and the old one stays."""
        async with self._turn:
            try:
                record = announced or await self._client.policy()
                if record.version == self.version or (announced and record.version < self.version):
                    return  # an announcement may come late
                bundle = await self._client.policy_bundle(record.version)
                await self._load_untrusted(record, bundle)
            except ProblemError as problem:
                _log.warning("no policy from the fabric: %s", problem)
            except (Refused, BadMessage) as error:
                _log.error("the fabric's policy is refused, version %d stays in force: %s", self.version, error)
                self._tell("policy.refused", record.version, "deny", str(error))
            else:
                _log.info("policy version %d is in force", self.version)
                self._changed()  # before the disk, which may take its time
                await asyncio.to_thread(self._state.keep_policy, record, bundle)
                self._tell("policy.enforced", self.version, "allow")

    def _tell(self, kind: str, version: int, outcome: str, reason: str = "") -> None:
        self._record(
            event_of(
                self._identity,
                kind,
                actor=self._identity.node,
                subject=f"policy version {version}",
                outcome=outcome,
                reason=reason,
                policy_version=self.version,
            )
        )

    async def _load_untrusted(self, record: PolicyRecord, bundle: bytes) -> None:
        """In a thread: compiling takes a quarter of a second."""
        unpacked = await asyncio.to_thread(self._verified_untrusted, record, bundle, self.version)
        former = self._engine
        self._engine = await asyncio.to_thread(self._choice.load, unpacked, record.version, record.sha384)
        if former is not None:
            await asyncio.to_thread(former.close)

    def _verified_untrusted(self, record: PolicyRecord, bundle: bytes, current_version: int) -> Bundle:
        identity = self._identity
        verify_untrusted(
            bundle,
            record,
            provider=self._provider,
            suite=identity.suite,
            policy_key=identity.policy_key,
            tenant=identity.join.tenant,
            current_version=current_version,
        )
        return unpack_untrusted(bundle)
