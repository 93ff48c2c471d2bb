"""Isolation by policy: an endpoint whose conduct calls for it is cut off here at once, and reported to the fabric, which isolates
it everywhere (docs/policy.md)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from kairos.api.problem import ProblemError
from kairos.api.session import IsolationReport
from kairos.audit.event import Event
from kairos.errors import BadMessage
from kairos.policy.decision import Decision
from kairos.policy.input import isolation_input, rfc3339
from kairos_dataplane import Offences
from kairos_gateway.conduct import Conduct
from kairos_node.fabric import FabricClient
from kairos_node.network_view import NetworkView
from kairos_node.spool import event_of
from kairos_node.state import Identity

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0


class Home(Protocol):
    """The gateway, as isolation by policy needs it."""

    identity: Identity
    client: FabricClient
    view: NetworkView

    @property
    def policy_version(self) -> int: ...
    def decide(self, point: str, document: dict[str, Any]) -> Decision: ...
    def offences(self) -> Iterable[tuple[str, Mapping[int, Offences]]]:
        """Of every live tunnel: its node, and what its data plane sessions counted."""
        ...

    def suspect(self, node: str, reason: str) -> None:
        """Nothing from or to it here, until the fabric has spoken."""
        ...

    def acquit(self, node: str) -> None: ...


class Isolator:
    """record: what the audit must know."""

    def __init__(self, home: Home, record: Callable[[Event], None]) -> None:
        self._home = home
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, IsolationReport] = {}
        self.conduct = Conduct()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for node, sessions in list(self._home.offences()):
                self.conduct.offended(node, sessions, self._loop.time())
                self.judge(node)
            for node in list(self._pending):
                await self._send(node)

    def taken_over(self, node: str) -> None:
        self.conduct.taken_over(node, self._loop.time())
        self.judge(node)

    def reported(self, node: str, facts: dict[str, Any]) -> None:
        """A posture report came, or (empty) did not."""
        self.conduct.reported(node, facts)
        self.judge(node)

    def settled(self, node: str) -> None:
        """The fabric has isolated or released it."""
        self._pending.pop(node, None)
        self.conduct.forget(node)

    def judge(self, node: str) -> None:
        """Asks policy, where there is anything to ask about; an isolation is carried out before this returns."""
        counts, reports = self.conduct.counts(node, self._loop.time()), self.conduct.reports(node)
        device = self._home.view.members.get(node)
        if device is None or node in self._pending or not (reports or any(counts.values())):
            return
        identity = self._home.identity
        document = isolation_input(
            now=rfc3339(time.time()),
            tenant=identity.join.tenant,
            device=device,
            counts=counts,
            reports=reports,
            gateway=identity.node,
        )
        decision = self._home.decide("isolation", document)
        if decision.allow:
            self._isolate(node, decision, document)

    def _isolate(self, node: str, decision: Decision, document: dict[str, Any]) -> None:
        _log.warning("%s is to be isolated: %s (%s)", node, decision.reason, decision.rule)
        reason = decision.reason or decision.rule
        self._home.suspect(node, reason)
        self._tell(node, decision, document)
        self._pending[node] = IsolationReport(
            node, decision.rule, reason, self._home.policy_version, document["counts"], document["reports"][:1]
        )
        task = self._loop.create_task(self._send(node))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _send(self, node: str) -> None:
        """The fabric's answer is an isolation, which comes as a push; a report that it does not take is dropped."""
        report = self._pending.get(node)
        if report is None:
            return
        try:
            await self._home.client.report_isolation(report)
        except ConnectionError as error:
            _log.warning("the isolation of %s is not reported yet: %s", node, error)
            return
        except (ProblemError, BadMessage) as error:
            _log.error("the fabric does not isolate %s: %s", node, error)
            self._home.acquit(node)
        self.settled(node)

    def _tell(self, node: str, decision: Decision, document: dict[str, Any]) -> None:
        identity = self._home.identity
        self._record(
            event_of(
                identity,
                "isolation.reported",
                actor=identity.node,
                subject=node,
                outcome="deny",
                rule=decision.rule,
                reason=decision.reason,
                policy_version=self._home.policy_version,
                detail={"point": "isolation", "input": document},
            )
        )
