"""A node's eye on the audit: it keeps the newest signed head and takes only heads that go on from it, so a fabric that rewrites its
history is caught by every node that saw the old one (docs/protocol.md §11)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import NoReturn

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


SPREAD_S = 300.0
"""A node that needs a proof asks for it at a random moment within so many seconds, so that the nodes of a tenant do not all ask at once."""


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
        self._unproven: SignedHead | None = None  # the newest that came without a proof which fits
        self._asked = asyncio.Event()

    def shown(self, head: SignedHead, first: int = 0, proof: Sequence[bytes] = ()) -> None:
        """The fabric says that the log stands so, and proves that it goes on from the log of `first` events.

        A head that contradicts the held one shows at once. One that needs another proof waits for catch_up(), and until then the head
        held before stays the one we hold.
        """
        held = self._state.audit_head
        try:
            check_audit_head(self._provider, self._identity.trust.root, head)
            if head.tenant != self._identity.join.tenant:
                raise Refused("audit-foreign", f"a head of tenant {head.tenant}")
            if held is None:
                self._state.keep_audit_head(head)
            elif head.size <= held.size:
                verify_successor(held, head, [])
            elif first == held.size:
                self._follow(held, head, proof)
            elif self._unproven is None or head.size > self._unproven.size:
                self._unproven = head
                self._asked.set()
        except (Refused, BadMessage) as error:
            self._caught(head, error)

    async def keep_up(self) -> NoReturn:
        """Asks for the proofs that the pushes lacked, for ever."""
        while True:
            await self._asked.wait()
            await asyncio.sleep(random.uniform(0, SPREAD_S))
            self._asked.clear()
            await self.catch_up()

    async def catch_up(self) -> None:
        """Fetches the proof for the newest head that came without one."""
        held, head, self._unproven = self._state.audit_head, self._unproven, None
        if head is None or held is None or head.size <= held.size:
            return
        try:
            self._follow(held, head, (await self._client.audit_consistency(held.size, head.size)).proof)
        except (ConnectionError, ProblemError) as error:
            _log.warning("audit: no proof that the log of %d events goes on from ours: %s", head.size, error)
        except (Refused, BadMessage) as error:
            self._caught(head, error)

    def _follow(self, held: SignedHead, head: SignedHead, proof: Sequence[bytes]) -> None:
        """Raises Refused."""
        verify_successor(held, head, proof)
        self._state.keep_audit_head(head)

    def _caught(self, head: SignedHead, error: Exception) -> None:
        """Both heads stay on disk: signed by the same fabric, they are the evidence."""
        _log.error("audit: the fabric shows a log that does not go on from the one it showed before: %s", error)
        if self._state.audit_conflict is not None:
            return
        self._state.keep_audit_conflict(head)
        self._record(
            event_of(self._identity, "audit.inconsistent", actor="fabric", subject=str(head.size), reason=str(error))
        )
