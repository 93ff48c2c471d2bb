"""Who is isolated, as this node knows it: kept on disk, enforced before policy is asked, answered with signed receipts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from kairos.api.push import Isolation, Receipt
from kairos.crypto import labels
from kairos.crypto.provider import SigningKey
from kairos.identity import transcript
from kairos.policy.decision import Decision, deny
from kairos_node.state import NodeState


class Isolations:
    """By node. The fabric's Welcome says all that hold; a push says what changed."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._held = {each.node: each for each in state.isolations}
        self._suspected: dict[str, str] = {}

    def __contains__(self, node: object) -> bool:
        return node in self._held or node in self._suspected

    def suspect(self, node: str, reason: str) -> None:
        """As if it were isolated, until the fabric says so or `acquit` is called; a restart forgets it."""
        self._suspected[node] = reason

    def acquit(self, node: str) -> None:
        self._suspected.pop(node, None)

    def learn(self, push: Isolation) -> None:
        """On disk when this returns: a restart does not forget it."""
        self.acquit(push.node)
        if push.state == "isolated":
            self._held[push.node] = push
        else:
            self._held.pop(push.node, None)
        self._state.keep_isolations(list(self._held.values()))

    def released_by(self, all_that_hold: Iterable[Isolation]) -> list[str]:
        """Nodes that we hold isolated and the fabric no longer does: we were away when they were released."""
        return sorted(set(self._held) - {each.node for each in all_that_hold})

    def forget(self, node: str) -> None:
        self._held.pop(node, None)
        self._state.keep_isolations(list(self._held.values()))

    def verdict(self, document: dict[str, Any]) -> Decision | None:
        """Deny for a flow with an isolated end, whatever policy says; None: policy is to be asked."""
        for party in (document.get("device"), document.get("peer")):
            node = party.get("node", "") if isinstance(party, dict) else ""
            if node in self:
                reason = self._held[node].reason if node in self._held else self._suspected[node]
                return deny(f"{node} is isolated: {reason}", "isolation")
        return None


def receipt(push: Isolation, point: str, key: SigningKey) -> Receipt:
    """Our word that it is enforced here. point: our own node id."""
    at_ms = int(time.time() * 1000)
    signed = transcript.isolation_receipt(push.id, push.node, point, push.state, at_ms)
    return Receipt(push.id, push.state, at_ms, key.sign(signed, labels.ISOLATION_RECEIPT))
