"""T4: may this endpoint have a tunnel here? Policy's `session` point, asked for a new tunnel, at each renewal, and when policy
or what it depends on changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from kairos.audit.event import Event
from kairos.policy.decision import Decision, deny
from kairos.policy.input import rfc3339, session_input
from kairos_node.network_view import NetworkView
from kairos_node.spool import event_of
from kairos_node.state import Identity


class Surroundings(Protocol):
    """What the answer depends on."""

    identity: Identity
    view: NetworkView

    @property
    def policy_version(self) -> int: ...
    def decide(self, point: str, document: dict[str, Any]) -> Decision: ...
    def posture_of(self, node: str) -> dict[str, Any]: ...


class SessionJudge:
    def __init__(self, around: Surroundings, report: Callable[[Event, str], object]) -> None:
        """report: told of each denial, and of which node it is."""
        self._around = around
        self._tell = report

    def decide(self, node: str, vnis: Collection[int]) -> Decision:
        """vnis: those that its tunnel carries, or would. A node that the network does not know is denied."""
        view = self._around.view
        device = view.members.get(node)
        if device is None:
            return deny(f"{node} is not in the network", "deny:unknown-device")
        document = session_input(
            now=rfc3339(time.time()),
            tenant=self._around.identity.join.tenant,
            device=device,
            posture=self._around.posture_of(node),
            vnis=sorted(view.vnis[vni].name for vni in vnis if vni in view.vnis),
            gateway=self._around.identity.node,
        )
        decision = self._around.decide("session", document)
        if not decision.allow:
            self._report(node, document, decision)
        return decision

    def _report(self, node: str, document: dict[str, Any], decision: Decision) -> None:
        self._tell(
            event_of(
                self._around.identity,
                "session.denied",
                actor=node,
                subject=f"tunnel of {node}",
                outcome="deny",
                rule=decision.rule,
                reason=decision.reason,
                policy_version=self._around.policy_version,
                detail={"point": "session", "input": document},
            ),
            node,
        )
