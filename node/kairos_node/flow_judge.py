"""Every new flow is decided here, once, by policy; the data plane keeps the verdict."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, Literal, Protocol

import msgspec

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW, RULE_MAX, WINDOW_S, Crossed, FlowRow, FlowWindow
from kairos.policy.decision import Decision, deny
from kairos.policy.input import PROTOCOLS, Application, Crossing, flow_input, rfc3339
from kairos.protocol.path import format_address
from kairos.wire.claim import FlowClaim
from kairos_dataplane import ControlReceived, Dataplane, Flow, Verdict
from kairos_dataplane.engine import NEVER, boottime_ms
from kairos_node.decision_log import MINUTE_S, DecisionLog
from kairos_node.decision_memo import DecisionMemo
from kairos_node.flow_claims import FlowClaims
from kairos_node.flow_endings import FlowEndings, seconds_until
from kairos_node.flow_ledger import FlowLedger
from kairos_node.network_view import Address, NetworkView
from kairos_node.slices import Slices

_log = logging.getLogger(__name__)
_ICMP = (1, 58)
_TCP, _SYN, _ACK = 6, 0x02, 0x10
_ELSEWHERE = -1  # names no session: begun by somebody behind the gateway
_WITH_SOCKETS = (6, 17)
_ASK_EVERY_S = 1.0
_LOT = 256  # flows that are asked about at once
_HUNG_AFTER_S = 5.0  # the data plane ends an allow that should have been judged again so long ago
Point = Literal["egress", "ingress", "interconnect"]


class Surroundings(Protocol):
    """What a verdict depends on beside the flow itself."""

    @property
    def view(self) -> NetworkView: ...
    @property
    def policy_version(self) -> int: ...
    @property
    def reads_source_port(self) -> bool:
        """The policy's answer may depend on it."""
        ...

    def decide(self, point: str, document: dict[str, Any]) -> Decision: ...
    def posture_of(self, node: str) -> dict[str, Any]:
        """The newest report of that device, empty when there is none."""
        ...

    def application_of(self, flow: Flow) -> Application | None:
        """The program of this host that opened one of our own flows; None where nobody can tell."""
        ...

    def session_of(self, node: str) -> str:
        """Of the tunnel to that node, as the fabric named it; empty where there is none, or it is not known here."""
        ...

    def claim(self, claim: FlowClaim, vni: int) -> None:
        """Endpoint: what the gateway shall hear of a flow before its first packet."""
        ...


class FlowJudge:
    """role: an endpoint judges what leaves it as egress; all that arrives anywhere is ingress; what comes over an interconnect
    is judged in the VNI it comes to, once it was let out of its own."""

    def __init__(
        self,
        dataplane: Dataplane,
        surroundings: Surroundings,
        tenant: str,
        node: str,
        role: str,
        suite: str,
        record: Callable[[Event], None],
    ) -> None:
        self._dataplane = dataplane
        self._around = surroundings
        self._tenant, self._node, self._role, self._suite = tenant, node, role, suite
        self.log = DecisionLog(record)
        self._record = record
        self.ledger = FlowLedger(self._tell_window, time.time())
        self.lost: Callable[[Flow], None] = lambda _: None  # told of flows that ran and have lost their leave
        self._loop = asyncio.get_running_loop()
        self._rules: list[str] = [""]  # the data plane keeps a number
        self._numbers: dict[str, int] = {"": 0}
        self._claims = FlowClaims()
        self._memo = DecisionMemo()
        self._endings = FlowEndings(self._ended)
        self._opened_by: dict[int, Application | None] = {}  # own flows: a program is asked for once, while it is there
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._slices = Slices(self._loop)
        self._due: set[int] = set()  # flows whose allow has ended, to be judged again
        self._minute()
        self._ask_for_ended(0)

    def opened(self, flow: Flow) -> None:
        """A flow waits for its verdict."""
        flow, document, decision = self._judge(flow)
        if decision.allow and document["point"] == "egress":
            self._around.claim(self._claim(flow, decision), flow.vni)
        self._tell(flow, decision)
        if decision.allow:
            self.ledger.opened(flow.id, self._row(flow, document, decision.rule))
        if not decision.allow or decision.log:
            self._report(flow, document, decision)
        self._compare(flow, document, decision)

    def claimed(self, event: ControlReceived) -> None:
        """Only gateways listen: an endpoint's peer has no programs."""
        if self._role == "gateway":
            self._claims.heard_untrusted(event)

    def judge_again(self) -> None:
        """Policy, network or posture changed: flows that lose their allow are cut, in both directions. A flow that waits for
        its first verdict gets it here; the data plane then does not hand out its question."""
        self._memo.forget()
        self._slices.start("judge again", lambda: self._each_flow(self._judge_anew))

    def _each_flow(self, act: Callable[[Flow], None]) -> Iterator[None]:
        for page in self._dataplane.flow_pages():
            for flow in page:
                act(flow)
                yield

    def _judge_anew(self, flow: Flow) -> None:
        if flow.verdict is Verdict.PENDING:  # or was, when the page was made
            for waiting in self._dataplane.find_flows([flow.id]):
                if waiting.verdict is Verdict.PENDING:
                    self.opened(waiting)
            return
        flow, document, decision = self._judge(flow)
        self._tell(flow, decision)
        if decision.allow == (flow.verdict is Verdict.ALLOW):
            return
        self._report(flow, document, decision)
        if decision.allow:
            self.ledger.opened(flow.id, self._row(flow, document, decision.rule))
        else:
            self.ledger.over(flow, "denied", time.time())
            self.lost(flow)

    def rule_named(self, number: int) -> str:
        return self._rules[number] if number < len(self._rules) else ""

    def claim_again(self, vni: int) -> None:
        """Another gateway carries our flows now."""
        self._slices.start(f"claim again {vni}", lambda: self._each_flow(lambda flow: self._claim_anew(flow, vni)))

    def _claim_anew(self, flow: Flow, vni: int) -> None:
        if flow.vni == vni and flow.verdict is Verdict.ALLOW:
            flow, document, decision = self._judge(flow)
            if decision.allow and document["point"] == "egress":
                self._around.claim(self._claim(flow, decision), vni)

    def _judge(self, flow: Flow) -> tuple[Flow, dict[str, Any], Decision]:
        """The flow as it was judged, the input, and what policy makes of it.

        A TCP flow that is met in its middle, as all are after a failover, does not show who began it. It has leave when
        it would have had it either way round; the data plane judges a SYN in it anew.
        """
        document, decision = self._decide(flow)
        if not decision.allow and _in_the_middle(flow):
            other = _turned(flow)
            turned = self._decide(other)
            if turned[1].allow:
                return other, *turned
        return flow, document, decision

    def _decide(self, flow: Flow) -> tuple[dict[str, Any], Decision]:
        """Most flows differ from one before in the port that they come from, which most policies do not read."""
        around = self._around
        app, claim = self._application(flow), self._claims.of(flow) if not flow.from_vni else None
        known = self._memo.as_of(int(time.time()), around.policy_version, around.view)
        seen = _seen(flow), flow.src_port if around.reads_source_port else None, app, claim is None, claim and claim.app
        if seen in known:
            document, decision = known[seen]
            return {**document, "src": {**document["src"], "port": flow.src_port}}, decision
        source, crossing = self._crossing(flow)
        document = self._document(flow, source, crossing, app, claim)
        if flow.from_vni and crossing is None:
            return document, deny("the two VNIs are not joined", "deny:not-joined")
        self._dataplane.flush()  # what was decided before does not wait for Rego
        known[seen] = document, around.decide(document["point"], document)
        return known[seen]

    def _crossing(self, flow: Flow) -> tuple[Address, Crossing | None]:
        """Who really begins it; and where it crosses to, None when it does not or may not."""
        view, here = self._around.view, self._around.view.vni(flow.vni)
        source = view.crossed_from(flow.vni, flow.from_vni, flow.src) if flow.from_vni else None
        called = view.seen_as(flow.from_vni, flow.vni, flow.dst) if flow.from_vni else None
        if source is None or called is None or here is None:
            return flow.src, None
        return source, Crossing(flow.vni, here.name, str(flow.src), str(called))

    def program_of(self, flow: Flow) -> str:
        """What opened it, as far as it is known here: at an endpoint by its kernel, at a gateway by the endpoint's claim."""
        claim = self._claims.of(flow)
        app = claim.app if claim is not None else self._opened_by.get(flow.id)
        return "" if app is None else app.path or app.unit

    def _document(
        self, flow: Flow, source: Address, crossing: Crossing | None, app: Application | None, claim: FlowClaim | None
    ) -> dict[str, Any]:
        view, begins_in = self._around.view, flow.from_vni or flow.vni
        device = view.holder(begins_in, source)
        vni = view.vni(begins_in)
        return flow_input(
            self._point(flow),
            now=rfc3339(time.time()),
            tenant=self._tenant,
            vni=begins_in,
            vni_name=vni.name if vni is not None else "",
            device=device,
            peer=view.holder(flow.vni, flow.dst),
            source=(str(source), flow.src_port),
            destination=(str(flow.dst), _asked_for(flow)),
            protocol=flow.protocol,
            gateway=self._node if self._role == "gateway" else "",
            attachment="" if device else view.attachment(begins_in, source),
            posture=self._around.posture_of(device.node if device else ""),
            app=app,
            claim_heard=claim is not None,
            claimed_app=claim.app if claim is not None else None,
            crossing=crossing,
        )

    def _claim(self, flow: Flow, decision: Decision) -> FlowClaim:
        return FlowClaim(
            flow.protocol,
            flow.src,
            flow.src_port,
            flow.dst,
            flow.dst_port,
            self._around.policy_version,
            decision.rule,
            self._application(flow),
        )

    def _application(self, flow: Flow) -> Application | None:
        if self._point(flow) != "egress" or flow.protocol not in _WITH_SOCKETS:
            return None
        if flow.id not in self._opened_by:
            self._dataplane.flush()  # nor for the kernel to be asked
            self._opened_by[flow.id] = self._around.application_of(flow)
        return self._opened_by[flow.id]

    def _point(self, flow: Flow) -> Point:
        if flow.from_vni:
            return "interconnect"
        return "egress" if self._role == "endpoint" and flow.session == 0 else "ingress"

    def _tell(self, flow: Flow, decision: Decision) -> None:
        verdict, not_after = Verdict.ALLOW if decision.allow else Verdict.DENY, NEVER
        if decision.allow and decision.expires_at is not None:
            not_after = boottime_ms(seconds_until(decision.expires_at) + _HUNG_AFTER_S)
        rule = self._number(decision.rule)
        alive = self._dataplane.verdict(flow.id, verdict, rule, self._around.policy_version, not_after)
        if alive and decision.allow and decision.expires_at is not None:
            self._endings.add(decision.expires_at, flow.id)

    def _ended(self, flows: Set[int]) -> None:
        self._memo.forget()
        self._due |= flows
        self._slices.start("ended", self._judge_due)

    def _judge_due(self) -> Iterator[None]:
        flows, self._due = self._due, set()
        for ids in _lots(flows, _LOT):
            for flow in self._dataplane.find_flows(ids):
                self._judge_anew(flow)
                yield

    def _number(self, rule: str) -> int:
        if rule not in self._numbers:
            self._numbers[rule] = len(self._rules)
            self._rules.append(rule)
        return self._numbers[rule]

    def _report(self, flow: Flow, document: dict[str, Any], decision: Decision) -> None:
        kind = "flow.allowed" if decision.allow else "flow.denied"
        if not self.log.report(self._event(kind, flow, document, decision), _came_through(document)):
            return
        if decision.allow:
            _log.info("allowed %s: %s", describe(flow), decision.rule)
        else:
            _log.warning("denied %s: %s (%s)", describe(flow), decision.reason, decision.rule)

    def _compare(self, flow: Flow, document: dict[str, Any], decision: Decision) -> None:
        """Both ends ask the same policy: what the endpoint let out and we deny shows that they saw different things."""
        claim = self._claims.of(flow)
        if claim is None or decision.allow or claim.policy_version != self._around.policy_version:
            return
        event = self._event("verdict.differs", flow, document, decision)
        event.detail["endpoint_rule"] = claim.rule
        if self.log.report(event, _came_through(document)):
            _log.warning("%s: the endpoint allowed it (%s), we deny it (%s)", describe(flow), claim.rule, decision.rule)

    def _event(self, kind: str, flow: Flow, document: dict[str, Any], decision: Decision) -> Event:
        return Event(
            id=secrets.token_hex(16),
            at=time.time(),
            tenant=self._tenant,
            source=self._node,
            kind=kind,
            actor=document["device"]["node"] or str(flow.src),
            subject=describe(flow),
            outcome="allow" if decision.allow else "deny",
            rule=decision.rule,
            reason=decision.reason,
            suite=self._suite,
            policy_version=self._around.policy_version,
            detail={"vni": flow.vni, "point": document["point"], "input": document},
        )

    # -- the double entry --------------------------------------------------------------------------------------------

    def _row(self, flow: Flow, document: dict[str, Any], rule: str) -> FlowRow:
        """Of a flow that begins."""
        across, peer = document["interconnect"], document["peer"]
        device = document["device"]["node"] or document["attachment"]
        now = time.time()
        return FlowRow(
            document["vni"]["id"],
            flow.protocol,
            document["src"]["ip"],
            flow.src_port,
            across["dst"] if across else str(flow.dst),
            flow.dst_port,
            device,
            peer["node"] if peer else "",
            self._around.session_of(device),
            rule[:RULE_MAX],
            round(now - flow.age_s, 3),
            round(now, 3),
            flow.packets,
            flow.bytes,
            "",
            Crossed(flow.vni, str(flow.src), str(flow.dst)) if flow.from_vni else None,
        )

    def _ask_for_ended(self, second: int) -> None:
        window = second % WINDOW_S == 0
        self._slices.start("window" if window else "settle", lambda: self._settling(window))
        self._timers["ended"] = self._loop.call_later(_ASK_EVERY_S, self._ask_for_ended, second + 1)

    def settle(self, window: bool = True) -> None:
        """What the data plane knows to be over goes into the ledger. window: and what the ledger has, into the audit."""
        for _ in self._settling(window):
            pass

    def _settling(self, window: bool = False) -> Iterator[None]:
        for flows, untold in self._dataplane.ended_pages():
            self.ledger.ended(flows, untold, time.time())
            yield
        if window:
            self.ledger.window(time.time())

    def _tell_window(self, window: FlowWindow) -> None:
        detail = msgspec.to_builtins(window)
        self._record(
            Event(
                secrets.token_hex(16), time.time(), self._tenant, self._node, LEDGER_WINDOW, self._node,
                f"{len(window.rows)} flows", suite=self._suite,
                policy_version=self._around.policy_version, detail=detail,
            )
        )  # fmt: skip

    def _minute(self) -> None:
        self.log.minute()
        self._claims.forget_waiting()
        self._slices.start("forget", self._forget_gone)
        self._timers["minute"] = self._loop.call_later(MINUTE_S, self._minute)

    def _forget_gone(self) -> Iterator[None]:
        """Of flows that are over nothing is kept; what ended untold is left out of the ledger."""
        for known in (self._opened_by, self._claims.flows(), self._endings.flows(), self.ledger.flows()):
            for ids in _lots(known, _LOT):
                gone = ids - self._dataplane.alive(ids)
                yield from self._settling()  # first: they end with their counts, if these are known
                for flow in gone:
                    self._opened_by.pop(flow, None)
                    self._claims.forget(flow)
                    self.ledger.forget(flow)
                self._endings.forget(gone)
                yield

    def close(self) -> None:
        """Every flow is told, those that live as stopped; the data plane may go."""
        self.settle(window=False)
        now = time.time()
        for flow in self._dataplane.flows():
            self.ledger.over(flow, "stopped", now)
        self.ledger.window(now)
        self._endings.close()
        self._slices.close()
        for timer in self._timers.values():
            timer.cancel()


def _lots(flows: Iterable[int], size: int) -> Iterator[set[int]]:
    """Of those that there are now."""
    left = iter(list(flows))
    while lot := set(itertools.islice(left, size)):
        yield lot


def _came_through(document: dict[str, Any]) -> str:
    """The node whose word it is that this flow has such a source: the device, or the one that leads to it; empty where there is none."""
    node: str = document["device"]["node"] or document["attachment"]
    return node


def _in_the_middle(flow: Flow) -> bool:
    """Met without its opening SYN. One that crosses VNIs is named by the side it began on, so it cannot be turned."""
    return flow.protocol == _TCP and flow.tcp_flags & (_SYN | _ACK) != _SYN and not flow.from_vni


def _asked_for(flow: Flow) -> int:
    """The port, or the message type of ICMP."""
    return flow.icmp_type if flow.protocol in _ICMP else flow.dst_port


def _seen(flow: Flow) -> tuple[int, ...]:
    """All of a flow that stands in the input, apart from the port that it comes from."""
    src, dst = flow.src, flow.dst  # as numbers, which hash ten times as fast
    return (
        flow.vni, flow.from_vni, flow.session == 0, flow.protocol, src.version, int(src), int(dst), _asked_for(flow),
    )  # fmt: skip


def _turned(flow: Flow) -> Flow:
    """The same flow, begun by the other end."""
    return flow._replace(
        session=0 if flow.session else _ELSEWHERE,
        src=flow.dst,
        dst=flow.src,
        src_port=flow.dst_port,
        dst_port=flow.src_port,
        packets=flow.packets[::-1],
        bytes=flow.bytes[::-1],
    )


def describe(flow: Flow) -> str:
    """`tcp 10.7.0.5:40112 > 10.7.0.9:443 in vni 7`."""
    name = PROTOCOLS.get(flow.protocol, str(flow.protocol))
    where = f"in vni {flow.vni}" + (f" from vni {flow.from_vni}" if flow.from_vni else "")
    if flow.protocol in _ICMP:
        return f"{name} type {flow.icmp_type} {flow.src} > {flow.dst} {where}"
    source, destination = (str(flow.src), flow.src_port), (str(flow.dst), flow.dst_port)
    return f"{name} {format_address(source)} > {format_address(destination)} {where}"
