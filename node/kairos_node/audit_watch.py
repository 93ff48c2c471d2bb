"""A node's eye on the audit: it keeps the newest signed head and takes only heads that go on from it, so a fabric that rewrites its
history is caught by every node that saw the old one (docs/protocol.md §11)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.audit.head import SignedHead, verify_successor
from kairos.crypto.provider import Provider
from kairos.errors import BadMessage, Refused
from kairos_node.certificates import check_audit_head
from kairos_node.fabric import FabricClient
from kairos_node.spool import event_of
from kairos_node.state import Identity, NodeState

_log = logging.getLogger(__name__)


class AuditWatch:
    def __init__(
        self,
        state: NodeState,
        identity: Identity,
        provider: Provider,
        client: FabricClient,
        record: Callable[[Event], None],
    ) -> None:
        self._state, self._identity, self._provider = state, identity, provider
        self._client, self._record = client, record

    async def shown(self, head: SignedHead) -> None:
        """The fabric says that the log stands so. Unless it proves that, the head held before stays the one we hold."""
        held = self._state.audit_head
        try:
            check_audit_head(self._provider, self._identity.trust.root, head)
            if head.tenant != self._identity.join.tenant:
                raise Refused("audit-foreign", f"a head of tenant {head.tenant}")
            if held is not None:
                verify_successor(held, head, await self._proof(held, head))
        except (ConnectionError, ProblemError) as error:
            _log.warning("audit: no proof that the log of %d events goes on from ours: %s", head.size, error)
        except (Refused, BadMessage) as error:
            self._caught(head, error)
        else:
            if held is None or head.size > held.size:
                self._state.keep_audit_head(head)

    async def _proof(self, held: SignedHead, head: SignedHead) -> list[bytes]:
        if head.size <= held.size:
            return []
        return (await self._client.audit_consistency(held.size, head.size)).proof

    def _caught(self, head: SignedHead, error: Exception) -> None:
        """Both heads stay on disk: signed by the same fabric, they are the evidence."""
        _log.error("audit: the fabric shows a log that does not go on from the one it showed before: %s", error)
        if self._state.audit_conflict is not None:
            return
        self._state.keep_audit_conflict(head)
        self._record(
            event_of(self._identity, "audit.inconsistent", actor="fabric", subject=str(head.size), reason=str(error))
        )
