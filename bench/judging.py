"""A gateway's part in judging a flow, round a data plane of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine_rig import Rig
from kairos.audit.event import Event
from kairos.policy.decision import Decision
from kairos.wire.claim import FlowClaim
from kairos_dataplane import Flow, load
from kairos_node.flow_judge import FlowJudge
from kairos_node.network_view import NetworkView
from kairos_node.policy import Engine


class JudgingGateway:
    """What a FlowJudge asks of its daemon."""

    policy_version = 1

    def __init__(self, engine: Engine, view: NetworkView) -> None:
        self.view = view
        self.reads_source_port = engine.reads_source_port
        self.decide: Callable[[str, dict[str, Any]], Decision] = engine.decide

    def application_of(self, flow: Flow) -> None:
        return None

    def posture_of(self, node: str) -> dict[str, Any]:
        return {"os": "debian", "kernel": "6.1.0", "disk_encrypted": True}

    def session_of(self, node: str) -> str:
        return ""

    def claim(self, claim: FlowClaim, vni: int) -> None:
        raise AssertionError("a gateway claims nothing")


@contextmanager
def judging(rig: Rig, around: JudgingGateway, record: Callable[[Event], None]) -> Iterator[FlowJudge]:
    """A gateway's own judge; its timers end with the block, before the data plane does."""
    judge = FlowJudge(rig.engine, around, "acme", "gw-0", "gateway", "KR1", record)
    try:
        yield judge
    finally:
        judge.close()


@contextmanager
def roomy_rig(flows: int) -> Iterator[Rig]:
    """A data plane of its own, with room for so many flows."""
    rig = Rig(load("c", max_flows=2 * flows))
    try:
        yield rig
    finally:
        rig.close()
