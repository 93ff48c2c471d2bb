"""Policy: what a first packet waits for its verdict, what ten thousand grants cost, whether engines and ends agree, and how
long a push takes until fifty endpoints enforce it.

First packets come at 1,000 new connections a second, each at its time on a fixed schedule, out of a tunnel into a gateway's
data plane and its judge; the wait is from that time to the packet on the other side, so a verdict that is late makes the
next one late too. Engines: the embedded one and an OPA server answer the same random inputs. Ends: random connection
attempts, as the endpoint sees each (with the program) and as the gateway does (with the claim).
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from policy_inputs import GRANTS, POINTS, some_input

from bench.judging import JudgingGateway, judging, roomy_rig
from bench.policy_push import pushes
from bench.rounds import Rounds
from engine_rig import HOST, PEER, VNI, tcp_packet, whole
from kairos.api.session import Lease, Member, Network, Vni
from kairos.policy.input import Application, flow_input
from kairos_cli.policy import compile_bundle
from kairos_node.network_view import NetworkView
from kairos_node.policy import Engine
from kairos_node.policy.bundle import Bundle, unpack_untrusted
from kairos_node.policy.opa import OpaEngine

ROOT = Path(__file__).parents[1]
OPA = shutil.which("opa") or str(ROOT / ".tools/bin/opa")
_RATE = 1000  # new connections a second
_FLOWS, _QUICK_FLOWS = 5000, 500
_ATTEMPTS, _QUICK_ATTEMPTS = 10_000, 500
_INPUTS, _QUICK_INPUTS = 400, 50  # at each point
_FEW, _GRANTS, _DEVICES = 100, 10_000, 5000
_FIRST_PORT = 1024
_OPA_PATIENCE_MS = 10_000
_NOW = "2026-11-25T12:00:00Z"
_CURL = Application("/usr/bin/curl", 1000, "web.service", "ab" * 32)


def main() -> None:
    rounds = Rounds("policy", __doc__)
    members = [_member(number) for number in range(_DEVICES)]
    small = _bundle(GRANTS)
    engine = Engine(small, 1, b"")
    some, many = (Engine(_bundle(_grants(count)), 1, b"") for count in (_FEW, _GRANTS))
    for number in rounds:
        random_ = random.Random(number)
        waits = asyncio.run(_first_packets(some, members, _QUICK_FLOWS if rounds.quick else _FLOWS))
        rounds.add("first_packet_p50_ms", statistics.median(waits), "ms")
        rounds.add("first_packet_p99_ms", waits[len(waits) * 99 // 100], "ms")
        rounds.add("grants10k_p50_ms", _decision_ms(many, members, random_), "ms")
        rounds.add("grants10k_mb", many.memory_bytes / 2**20, "MiB")
        rounds.add("conformance_mismatches", _conformance(engine, small, random_, rounds.quick), "decisions")
        attempts = _QUICK_ATTEMPTS if rounds.quick else _ATTEMPTS
        rounds.add("both_ends_mismatches", _both_ends(engine, Engine(small, 1, b""), random_, attempts), "attempts")
    for figure, value in pushes(rounds.quick):
        rounds.add(figure, value, "ms")
    rounds.finish()


def _bundle(grants: dict[str, Any]) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grants.json"
        path.write_text(json.dumps(grants))
        return unpack_untrusted(compile_bundle(ROOT / "policies", path))


def _grants(count: int) -> dict[str, Any]:
    """Four in ten name a device, three a group, two a tag, and one in ten a network behind a gateway; one in fifty denies."""
    kinds = (
        "node:ep-{}",
        "node:ep-{}",
        "node:ep-{}",
        "node:ep-{}",
        "group:g{}",
        "group:g{}",
        "group:g{}",
        "tag:t{}",
        "tag:t{}",
    )
    of_kind = {"node": _DEVICES, "group": 500, "tag": 50}
    allow: list[dict[str, Any]] = []
    deny: list[dict[str, Any]] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        source = kind.format(number % of_kind[kind.partition(":")[0]])
        to = f"10.{100 + number % 100}.0.0/16" if number % 10 == 9 else f"group:g{number * 7 % 500}"
        grant = {"id": f"g{number}", "from": [source], "to": [to], "ports": [f"tcp/{number % 60_000 + 1}"]}
        (deny if number % 50 == 49 else allow).append(grant)
    allow.append({"id": "all", "from": ["tag:staff"], "to": ["tag:staff"], "ports": ["tcp/443"]})
    return {"admission": GRANTS["admission"], "deny": deny, "allow": allow}


def _member(number: int) -> Member:
    groups, tags = [f"g{number % 500}", f"g{(number + 1) % 500}"], ["staff", f"t{number % 50}"]
    return Member(f"ep-{number}", "endpoint", f"host-{number}", "1", b"", tags, groups, f"owner-{number % 1000}")


# -- first packets ---------------------------------------------------------------------------------------------------


def _view(members: list[Member]) -> NetworkView:
    """The first two of the members hold the addresses that the rig uses."""
    leases = [
        Lease(VNI, member.node, [f"{address}/24"]) for member, address in zip(members, (PEER, HOST), strict=False)
    ]
    return NetworkView(Network(1, [Vni(VNI, "office", ["10.77.0.0/24"])], leases, members, []))


async def _first_packets(engine: Engine, members: list[Member], count: int) -> list[float]:
    """Milliseconds that each waited, in order of length."""
    waits = []
    around = JudgingGateway(engine, _view(members))
    around.reads_source_port = True  # so that each is another question: nothing is answered from memory
    with roomy_rig(count) as rig, judging(rig, around, lambda _event: None) as judge:
        packets = [rig.seal(whole(tcp_packet(PEER, HOST, ports=(_FIRST_PORT + n, 443)))) for n in range(count)]
        began = time.perf_counter()
        for number, packet in enumerate(packets):
            due = began + number / _RATE
            _wait_for(due)
            rig.put(packet)
            for flow in rig.opened():
                judge.opened(flow)
            if len(rig.to_host()) != 1:
                raise RuntimeError("a first packet was not let through")
            waits.append((time.perf_counter() - due) * 1e3)
    return sorted(waits)


def _wait_for(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        time.sleep(left)


# -- decisions -------------------------------------------------------------------------------------------------------


def _decision_ms(engine: Engine, members: list[Member], random_: random.Random) -> float:
    """The median over random pairs of devices; half of the attempts are at the port that all may use."""
    taken, allowed = [], 0
    for _ in range(1000):
        device, peer = random_.sample(members, 2)
        document = _attempt(device, peer, 443 if random_.random() < 0.5 else random_.randrange(1, 60_000))
        began = time.perf_counter()
        allowed += engine.decide("ingress", document).allow
        taken.append((time.perf_counter() - began) * 1e3)
    if not 400 < allowed < 600:
        raise RuntimeError(f"{allowed} of 1000 attempts were allowed")
    return statistics.median(taken)


def _attempt(device: Member, peer: Member, port: int) -> dict[str, Any]:
    return flow_input(
        "ingress",
        now=_NOW,
        tenant="acme",
        vni=VNI,
        vni_name="office",
        device=device,
        peer=peer,
        source=(PEER, 40_000),
        destination=(HOST, port),
        protocol=6,
        gateway="gw-0",
    )


def _conformance(engine: Engine, bundle: Bundle, random_: random.Random, quick: bool) -> int:
    """Decisions in which a real OPA server says something else."""
    server = OpaEngine(bundle, 1, b"", _OPA_PATIENCE_MS, OPA)
    try:
        documents = [
            (point, some_input(random_, point)) for point in POINTS for _ in range(_QUICK_INPUTS if quick else _INPUTS)
        ]
        return sum(engine.decide(*each) != server.decide(*each) for each in documents)
    finally:
        server.close()


def _both_ends(endpoint: Engine, gateway: Engine, random_: random.Random, attempts: int) -> int:
    """Attempts on which the two differ."""
    differing = 0
    for _ in range(attempts):
        app = random_.choice([None, _CURL])
        device, peer = (
            Member(
                f"ep-{random_.randint(1, 3)}",
                "endpoint",
                "host",
                "1",
                b"",
                random_.sample(["staff", "web", "guest", "db"], 2),
                random_.sample(["dev", "ops"], random_.randint(0, 1)),
                random_.choice(["ann", "bob", ""]),
            )
            for _ in range(2)
        )
        common: dict[str, Any] = {
            "now": random_.choice([_NOW, "2026-11-25T11:59:59Z", "2026-11-28T23:30:00Z"]),
            "tenant": "acme",
            "vni": 1,
            "vni_name": random_.choice(["office", "lab"]),
            "device": device,
            "peer": random_.choice([None, peer]),
            "source": ("10.7.0.2", random_.randint(1024, 65_535)),
            "destination": (
                random_.choice(["10.7.0.3", "10.8.1.1", "fd07::9"]),
                random_.choice([22, 53, 80, 443, 8050]),
            ),
            "protocol": random_.choice([1, 6, 17]),
            "posture": {"disk_encrypted": random_.random() < 0.5},
        }
        out = endpoint.decide("egress", flow_input("egress", gateway="", app=app, **common))
        coming = gateway.decide(
            "ingress", flow_input("ingress", gateway="gw-0", claim_heard=True, claimed_app=app, **common)
        )
        differing += (out.allow, out.rule) != (coming.allow, coming.rule)
    return differing


if __name__ == "__main__":
    main()
