"""New connections: what one costs from the data plane through Rego and back.

Three things are timed, each as CPU time of the whole process: the policy engine alone (an input document in, a decision
out), the data plane alone (a first packet in, an event, a verdict back, the packet out), and a gateway's whole way,
which also builds the input out of the network and keeps the verdict: cold, each connection to another port, so that none
is like one before, and from the memo, each from another port, which the shipped rules do not read. Last, what new
connections take from a bulk flow beside them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import traffic
from bench.judging import JudgingGateway, judging, roomy_rig
from bench.link import Link
from bench.product import engines as bare_engines
from bench.rounds import Rounds
from engine_rig import HOST, PEER, VNI, Rig, tcp_packet, whole
from kairos.api.session import Lease, Member, Network, Vni
from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW
from kairos.policy.input import flow_input
from kairos_cli.policy import compile_bundle
from kairos_dataplane import Flow, Verdict
from kairos_node.network_view import NetworkView
from kairos_node.policy import Engine
from kairos_node.policy.bundle import unpack_untrusted
from two_hosts import sh

POLICIES = Path(__file__).parents[1] / "policies"
GRANTS = (10, 10_000)
_FLOWS, _QUICK_FLOWS = 8192, 512
_BATCH = 64  # what one call of `events` takes
_FIRST_PORT = 1024
_BULK_S, _QUICK_BULK_S, _BULK_TURNS = 3, 1, 4
_NEW_A_SECOND = 10_000


def main() -> None:
    rounds = Rounds("flows", __doc__)
    count = _QUICK_FLOWS if rounds.quick else _FLOWS
    engines = {grants: _engine(grants) for grants in GRANTS}
    for _ in rounds:
        _judged(rounds, engines, count)
        rounds.attempt("upcall_cost_pct", _beside_bulk(_QUICK_BULK_S if rounds.quick else _BULK_S))
    rounds.finish()


def _judged(rounds: Rounds, engines: dict[int, Engine], count: int) -> None:
    for grants, engine in engines.items():
        rounds.add(f"decisions_{grants}_grants_per_s", count / _decisions(engine, count), "1/s a core")
    rounds.add("upcall_us", _upcalls(count) / count * 1e6, "us a flow")
    for name, alike in (("cold", False), ("memo", True)):
        seconds = asyncio.run(_whole_way(engines[GRANTS[0]], count, alike))
        rounds.add(f"flows_{name}_per_s", count / seconds, "flows/s a core")


def _engine(grants: int) -> Engine:
    """The shipped rules with that many grants; each device is named by a hundredth of them, the last one decides."""
    allow: list[dict[str, Any]] = [
        {"id": f"g{n}", "from": [f"node:ep-{n % 100}"], "to": ["tag:web"], "ports": [f"tcp/{n % 60_000 + 1}"]}
        for n in range(grants - 1)
    ]
    allow.append({"id": "all", "from": ["tag:staff"], "to": ["*"], "ports": ["tcp/*"], "log": False})
    admission = [{"id": "in", "roles": ["endpoint"], "outcome": "allow"}]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grants.json"
        path.write_text(json.dumps({"admission": admission, "deny": [], "allow": allow}))
        return Engine(unpack_untrusted(compile_bundle(POLICIES, path)), 1, b"")


def _network() -> NetworkView:
    """A hundred members; the first two hold the addresses that the rig uses."""
    addresses = [PEER, HOST, *(f"10.77.0.{n}" for n in range(3, 101))]
    members = [
        Member(f"ep-{n}", "endpoint", f"host-{n}", "1", b"", ["web", "staff"], ["dev"], "ann") for n in range(100)
    ]
    leases = [Lease(VNI, member.node, [f"{address}/24"]) for member, address in zip(members, addresses, strict=False)]
    return NetworkView(Network(1, [Vni(VNI, "office", ["10.77.0.0/24"])], leases, members, []))


def _decisions(engine: Engine, count: int) -> float:
    """CPU seconds of `count` decisions."""
    members = list(_network().members.values())
    documents = [_document(members[n % 100], members[(n * 7 + 1) % 100], n) for n in range(count)]
    began = time.process_time()
    allowed = sum(engine.decide("ingress", document).allow for document in documents)
    seconds = time.process_time() - began
    _expect(allowed, count, "decisions that allow")
    return seconds


def _document(device: Member, peer: Member, number: int) -> dict[str, Any]:
    return flow_input(
        "ingress",
        now="2026-01-01T00:00:00Z",
        tenant="acme",
        vni=VNI,
        vni_name="office",
        device=device,
        peer=peer,
        source=(PEER, _FIRST_PORT + number),
        destination=(HOST, 443),
        protocol=6,
        gateway="gw-0",
    )


def _upcalls(count: int) -> float:
    """CPU seconds of the data plane and its Python face, with a verdict that costs nothing."""
    with roomy_rig(count) as rig:
        return _timed(rig, count, lambda flow: rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 1))


async def _whole_way(engine: Engine, count: int, alike: bool) -> float:
    """CPU seconds with a gateway's own FlowJudge. alike: to one service, else each to another."""
    with roomy_rig(count) as rig:
        events: list[Event] = []
        with judging(rig, JudgingGateway(engine, _network()), events.append) as judge:
            seconds = _timed(rig, count, judge.opened, alike)
        _expect(
            sum(event.kind != LEDGER_WINDOW for event in events), 0, "connections reported"
        )  # the grant says log: false
        return seconds


def _timed(rig: Rig, count: int, opened: Callable[[Flow], object], alike: bool = True) -> float:
    """CPU seconds from first packets to verdicts. Sealing the packets and reading them back are not in it."""
    seconds, seen = 0.0, 0
    for batch in _first_packets(rig, count, alike):
        began = time.process_time()
        rig.put(*batch)
        flows = rig.opened()
        for flow in flows:
            opened(flow)
        seconds += time.process_time() - began
        seen += len(rig.to_host()) if len(flows) == len(batch) else 0
    _expect(seen, count, "first packets let through")
    return seconds


def _first_packets(rig: Rig, count: int, alike: bool) -> Iterator[list[bytes]]:
    for start in range(0, count, _BATCH):
        ports = range(_FIRST_PORT + start, _FIRST_PORT + min(start + _BATCH, count))
        yield [
            rig.seal(whole(tcp_packet(PEER, HOST, ports=(port, 443) if alike else (_FIRST_PORT, port))))
            for port in ports
        ]


def _count_datagrams(link: Link) -> None:
    """Nobody listens at the ports of the datagrams: they are counted instead, for the kernel would answer each with ICMP."""
    rule = "add table inet seen; add chain inet seen in { type filter hook input priority 0; };"
    sh(f"ip netns exec {link.b} nft '{rule} add rule inet seen in udp dport >= 10000 iifname tun0 counter drop'")


def _beside_bulk(seconds: int) -> Iterator[tuple[str, float, str]]:
    """What part of a bulk flow 10,000 new flows a second take, each an upcall at both ends, in percent of what it is beside as
    many datagrams of known flows. One bulk flow differs from the next by more than that: so several of each, in turn."""
    rates: dict[str, list[float]] = {"known": [], "new": []}
    arrived: list[float] = []
    for _ in range(_BULK_TURNS):
        # Engines of its own for each turn: its flows are as many as a session may have at a time.
        with bare_engines("auto") as link, traffic.iperf_server(link):
            _count_datagrams(link)
            for kind, found in rates.items():
                before = _arrived(link)
                with _datagrams(link, seconds + 1, kind):
                    found.append(traffic.tcp_gbit(link, seconds))
                if kind == "new":
                    arrived.append((_arrived(link) - before) / (seconds + 1))
    known, new = (statistics.mean(found) for found in rates.values())
    yield "upcall_flows_per_s", statistics.mean(arrived), "flows/s that came through"
    yield "upcall_cost_pct", 100 * (1 - new / known), "%"


@contextmanager
def _datagrams(link: Link, seconds: int, kind: str) -> Iterator[None]:
    program = f"{sys.executable} -m bench.programs.datagrams {link.address} {_NEW_A_SECOND} {seconds} {kind}"
    sender = subprocess.Popen(f"exec ip netns exec {link.a} {program}", shell=True)
    try:
        yield
    finally:
        sender.wait()


def _arrived(link: Link) -> int:
    listed = sh(f"ip netns exec {link.b} nft list table inet seen").stdout
    return int(listed.partition("packets ")[2].split()[0])


def _expect(got: int, wanted: int, what: str) -> None:
    if got != wanted:
        raise RuntimeError(f"{what}: {got} of {wanted}")


if __name__ == "__main__":
    main()
