"""A second connection like the first is not asked about again; what policy could tell apart is."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bench.judging import JudgingGateway
from engine_rig import HOST, PEER, VNI, Rig, tcp_packet, whole
from kairos.api.session import Lease, Member, Network, Vni
from kairos.audit.event import Event
from kairos.policy.decision import Decision
from kairos_cli.policy import compile_bundle
from kairos_dataplane import Flow, Verdict, load
from kairos_node.flow_judge import FlowJudge
from kairos_node.network_view import NetworkView
from kairos_node.policy import Engine
from kairos_node.policy.bundle import unpack_untrusted

POLICIES = Path(__file__).parents[2] / "policies"
ANY_PORT = (
    'package kairos.ingress\n\ndecision := {"allow": input.src.port >= 0, "rule": "any", "reason": "", "log": false}\n'
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """The shipped rules, with a grant for the web that says nothing in the log; and rules that read the source's port."""
    folder = tmp_path_factory.mktemp("rules")
    for rule in POLICIES.glob("*.rego"):
        if not rule.stem.endswith("_test"):
            shutil.copy(rule, folder)
    (folder / "ingress.rego").write_text(ANY_PORT)
    grants = folder / "grants.json"
    grants.write_text(
        '{"allow": [{"id": "web", "from": ["tag:staff"], "to": ["*"], "ports": ["tcp/443"], "log": false}]}'
    )
    sources = {"shipped": POLICIES, "by source port": folder}
    return {name: Engine(unpack_untrusted(compile_bundle(each, grants)), 1, b"") for name, each in sources.items()}


def view() -> NetworkView:
    members = [Member("ep-0", "endpoint", "alice", "1", b"", ["staff"])]
    return NetworkView(
        Network(1, [Vni(VNI, "office", ["10.77.0.0/24"])], [Lease(VNI, "ep-0", [f"{PEER}/24"])], members, [])
    )


class Case:
    """A gateway's judge whose questions to policy are kept."""

    def __init__(self, engine: Engine, rig: Rig) -> None:
        self.rig = rig
        self.around = JudgingGateway(engine, view())
        self.asked: list[dict[str, Any]] = []
        self.events: list[Event] = []
        decide = self.around.decide
        self.around.decide = lambda point, document: self._asked(decide, point, document)
        self.judge = FlowJudge(rig.engine, self.around, "acme", "gw-0", "gateway", "KR1", self.events.append)

    def comes(self, *ports: tuple[int, int]) -> list[Flow]:
        self.rig.put(*(self.rig.seal(whole(tcp_packet(PEER, HOST, ports=pair))) for pair in ports))
        flows = self.rig.opened()
        for flow in flows:
            self.judge.opened(flow)
        return flows

    def verdicts(self) -> set[Verdict]:
        return {flow.verdict for flow in self.rig.engine.flows()}

    def _asked(
        self, decide: Callable[[str, dict[str, Any]], Decision], point: str, document: dict[str, Any]
    ) -> Decision:
        self.asked.append(document)
        return decide(point, document)


def run(engine: Engine, monkeypatch: pytest.MonkeyPatch, check: Callable[[Case], None]) -> None:
    """In one and the same second."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)

    async def running() -> None:
        rig = Rig(load("c"))
        try:
            case = Case(engine, rig)
            check(case)
            case.judge.close()
        finally:
            rig.close()

    asyncio.run(running())


def test_the_same_service_from_another_port_is_not_asked_about_again(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(case: Case) -> None:
        assert len(case.comes(*((port, 443) for port in range(2000, 2020)))) == 20
        assert len(case.asked) == 1
        assert case.verdicts() == {Verdict.ALLOW}
        case.comes((2000, 22))
        assert len(case.asked) == 2

    run(engines["shipped"], monkeypatch, check)


def test_what_is_told_of_it_is_its_own(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    def check(case: Case) -> None:
        case.comes((2001, 22), (2002, 22))
        assert len(case.asked) == 1
        told = [event for event in case.events if event.kind == "flow.denied"]
        assert [event.detail["input"]["src"] for event in told] == [{"ip": PEER, "port": port} for port in (2001, 2002)]
        assert all(event.detail["input"] | {"src": None} == case.asked[0] | {"src": None} for event in told)

    run(engines["shipped"], monkeypatch, check)


def test_a_policy_that_reads_the_port_is_asked_each_time(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(case: Case) -> None:
        case.comes((2001, 443), (2002, 443))
        assert [document["src"]["port"] for document in case.asked] == [2001, 2002]

    run(engines["by source port"], monkeypatch, check)


def test_nothing_that_was_decided_waits_for_policy(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusals leave together at the end, but for a decision that takes its time."""
    arrived: list[int] = []

    def check(case: Case) -> None:
        with case.rig.over_udp() as (_, peer):
            peer.setblocking(False)
            decide = case.around.decide

            def drain() -> None:
                arrived.append(0)
                with suppress(BlockingIOError):
                    while peer.recv(2048):
                        arrived[-1] += 1

            def decide_later(point: str, document: dict[str, Any]) -> Decision:
                drain()
                return decide(point, document)

            case.around.decide = decide_later
            with case.rig.engine.corked():
                case.comes((2001, 22), (2002, 22), (2001, 23), (2002, 23), (2003, 23))
            drain()

    run(engines["shipped"], monkeypatch, check)
    assert arrived == [0, 2, 3]


@contextmanager
def news(case: Case) -> Iterator[None]:
    """Policy is asked in the block, once more."""
    before = len(case.asked)
    yield
    assert len(case.asked) == before + 1


def test_whatever_changes_is_asked_about_in_the_same_second(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(case: Case) -> None:
        with news(case):
            case.comes((2001, 443))
        with news(case):
            case.judge.judge_again()  # posture, isolation
        with news(case):
            case.around.view = view()
            case.comes((2002, 443))
        with news(case):
            case.around.policy_version += 1
            case.comes((2003, 443))

    run(engines["shipped"], monkeypatch, check)


def test_nothing_is_remembered_past_its_second(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    def check(case: Case) -> None:
        with news(case):
            case.comes((2001, 443))
        later = time.time() + 1
        monkeypatch.setattr(time, "time", lambda: later)
        with news(case):
            case.comes((2002, 443))

    run(engines["shipped"], monkeypatch, check)


@pytest.mark.parametrize(
    "other",
    [
        {"vni": 2}, {"from_vni": 3}, {"protocol": 17}, {"dst_port": 444}, {"src": ip_address("10.77.0.9")},
        {"dst": ip_address("10.77.0.9")}, {"src": ip_address("::10.77.0.9"), "dst": ip_address("::10.77.0.2")},
    ],
    ids=str,
)  # fmt: skip
def test_a_flow_that_differs_in_anything_else_is_another_question(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    def check(case: Case) -> None:
        (flow,) = case.comes((2001, 443))
        before = case.judge._decide(flow)[0]
        after = case.judge._decide(flow._replace(**other))[0]
        assert before != after

    run(engines["shipped"], monkeypatch, check)


def test_a_flow_that_waits_is_judged_with_all_others_and_not_twice(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its question may be lost, or come too late."""

    def check(case: Case) -> None:
        case.rig.put(case.rig.seal(whole(tcp_packet(PEER, HOST, ports=(2001, 443)))))
        with news(case):
            case.judge.judge_again()
        assert case.verdicts() == {Verdict.ALLOW}
        assert case.rig.opened() == []

    run(engines["shipped"], monkeypatch, check)
