"""Policy felt by traffic: programs, ends of grants, new bundles, on real daemons."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kairos_agent.posture import collect
from overlay import GRANTS, WEB, Host, Overlay, serving, sh, wait_for

CURL = ("curl", "-sS", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}")
OPA = shutil.which("opa") or str(Path(__file__).parents[2] / ".tools/bin/opa")
POLICIES = Path(__file__).parents[2] / "policies"
URL = f"http://{WEB}:8080/protocol.md"
# Asks every 50 ms over one connection, and says when that ends.
STREAM = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=5)
connection.connect()
print("open", flush=True)
try:
    while True:
        connection.sock.sendall(b"x")
        time.sleep(0.05)
except OSError as error:
    print("cut", flush=True)
"""
SINK = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    opened = []
    while True:
        opened.append(server.accept()[0])
"""


@pytest.fixture
def overlay(overlay: Overlay) -> Iterator[Overlay]:
    """With a web server behind the gateway; the policy of all other tests comes back."""
    overlay.up(overlay.gateway, overlay.alice)
    wait_for("news from the fabric", lambda: all(host.status().get("connected") for host in overlay.hosts[:2]))
    with serving(web(overlay)):
        yield overlay
    overlay.push_policy(GRANTS)


def web(overlay: Overlay) -> str:
    return overlay.gateway.namespace.replace("gateway", "web")


def allowing(*grants: dict[str, Any]) -> dict[str, Any]:
    return {
        **GRANTS,
        "allow": [{"from": ["tag:staff"], "to": ["*"], "ports": ["tcp/8080"], **grant} for grant in grants],
    }


def push(overlay: Overlay, grants: dict[str, Any]) -> None:
    """Returns when both ends enforce it."""
    hosts = (overlay.gateway, overlay.alice)
    before = max(host.status()["policy_version"] for host in hosts)
    overlay.push_policy(grants)
    wait_for("the policy", lambda: all(host.status().get("policy_version", 0) > before for host in hosts))


@contextmanager
def program(namespace: str, text: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    words = ("ip", "netns", "exec", namespace, sys.executable, "-c", text, *map(str, arguments))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it is open, or listening
            yield process
        finally:
            process.kill()


def cut(process: subprocess.Popen[str]) -> bool:
    """Waits for its end: whether policy ended it."""
    assert process.stdout is not None
    return process.stdout.readline() == "cut\n"


def answered(host: Host, *curl: str) -> bool:
    return host.run(*(curl or CURL), URL).stdout == "200"


def test_one_program_reaches_it_and_another_of_the_same_user_does_not(overlay: Overlay) -> None:
    curl = shutil.which("curl")
    assert curl
    push(overlay, allowing({"id": "web", "apps": [curl]}))
    assert answered(overlay.alice)
    fetch = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1], timeout=5).status)"
    refused = overlay.alice.run(sys.executable, "-c", fetch, URL)
    assert refused.returncode == 1
    assert "200" not in refused.stdout
    denied = [flow for flow in overlay.alice.tell("flows") if flow["verdict"] == "deny"]
    assert "deny:default" in {flow["rule"] for flow in denied}


def test_a_connection_ends_with_its_grant(overlay: Overlay) -> None:
    grant = {"id": "short", "ports": ["tcp/8081"]}
    with program(web(overlay), SINK, 8081):
        push(overlay, allowing(grant, {"id": "web"}))
        with program(overlay.alice.namespace, STREAM, WEB, 8081) as stream:
            end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
            push(overlay, allowing({**grant, "expires_at": end.isoformat()}, {"id": "web"}))
            known = datetime.now(UTC)
            assert cut(stream)
            ended = datetime.now(UTC)
    assert ended >= end
    assert (ended - max(end, known)).total_seconds() < 2
    assert answered(overlay.alice)


def test_a_new_policy_cuts_what_it_denies_and_leaves_the_rest(overlay: Overlay) -> None:
    with program(web(overlay), SINK, 8081), program(web(overlay), SINK, 8082):
        ports = {"from": ["tag:staff"], "to": ["*"]}
        push(overlay, allowing({"id": "one", "ports": ["tcp/8081"]}, {"id": "two", "ports": ["tcp/8082"]}))
        one = program(overlay.alice.namespace, STREAM, WEB, 8081)
        two = program(overlay.alice.namespace, STREAM, WEB, 8082)
        with one as denied, two as kept:
            push(overlay, {**GRANTS, "allow": [{"id": "two", "ports": ["tcp/8082"], **ports}]})
            assert cut(denied)
            assert kept.poll() is None
            flows = [flow for flow in overlay.alice.tell("flows") if "8082" in str(flow)]
            assert all(flow["verdict"] == "allow" for flow in flows)
            assert flows


def test_a_grant_that_requires_posture_holds_for_devices_that_report_it(overlay: Overlay) -> None:
    alice = overlay.alice
    overlay.push_policy(allowing({"id": "web", "require": {"os": "debian-of-another-world"}}))
    wait_for("a refusal", lambda: alice.run(*CURL, URL).stdout != "200")
    facts = collect()
    overlay.push_policy(allowing({"id": "web", "require": {"os": facts["os"], "agent_sha256": facts["agent_sha256"]}}))
    wait_for("the page", lambda: alice.run(*CURL, URL).stdout == "200")
    shown = sh(
        f"{sys.executable} -m kairos_cli.main posture {alice.node} --tenant acme --dir {overlay.folder}/fabric --json"
    )
    assert json.loads(shown.stdout)["facts"] == facts


def test_a_session_rule_ends_a_tunnel_and_lets_it_come_back(overlay: Overlay) -> None:
    overlay.alice.await_tunnel()
    lost = {"id": "lost", "tags": ["staff"], "outcome": "deny", "reason": "reported lost"}
    overlay.push_policy({**GRANTS, "session": [{"id": "others", "outcome": "allow"}, lost]})
    overlay.alice.await_line("reported lost (session:lost)")
    wait_for("the end of the tunnel", lambda: not overlay.alice.tunnel())
    assert overlay.gateway.status()["tunnels"] == []
    overlay.push_policy(GRANTS)
    overlay.alice.await_tunnel()


def audited(overlay: Overlay, kind: str) -> list[dict[str, Any]]:
    shown = sh(
        f"{sys.executable} -m kairos_cli.main audit list --kind {kind} --tenant acme --dir {overlay.folder}/fabric --json"
    )
    events: list[dict[str, Any]] = json.loads(shown.stdout)
    return events


def test_the_gateway_hears_what_program_the_endpoint_claims(overlay: Overlay) -> None:
    curl = shutil.which("curl")
    assert curl
    push(overlay, allowing({"id": "claimed", "apps": [f"{curl} uid:0"]}))
    assert answered(overlay.alice)

    def events() -> list[dict[str, Any]]:
        """Of both ends."""
        found = [each for each in audited(overlay, "flow.allowed") if each["rule"] == "grant:claimed"]
        return sorted(found, key=lambda each: each["source"] != overlay.gateway.node) if len(found) == 2 else []

    decided, _ = wait_for("the ends' events", events)
    flows = [flow for host in (overlay.alice, overlay.gateway) for flow in host.tell("flows")]
    assert [flow["program"] for flow in flows if flow["rule"] == "grant:claimed"] == [curl, curl]
    claim = decided["detail"]["input"]["claims"]["app"]
    assert (claim["path"], claim["uid"]) == (curl, 0)
    assert claim["sha256"] == hashlib.sha256(Path(curl).read_bytes()).hexdigest()
    why = f"{sys.executable} -m kairos_cli.main why --tenant acme --dir {overlay.folder}/fabric --decision"
    told = json.loads(sh(f"{why} {decided['id']} --json").stdout)
    assert [each["source"] for each in told["other_end"]] == [overlay.alice.node]
    assert (told["decided_again"]["allow"], told["decided_again"]["rule"]) == (True, "grant:claimed")
    assert "decided again  the same" in sh(f"{why} {decided['id']}").stdout
    assert "no decision nonsense is on record" in sh(f"{why} nonsense", check=False).stderr


def test_ends_that_disagree_are_an_event(overlay: Overlay) -> None:
    source = overlay.folder / "disagreeing"
    shutil.copytree(POLICIES, source, dirs_exist_ok=True)
    (source / "ingress.rego").write_text(
        'package kairos.ingress\n\ndecision := {"allow": false, "rule": "deny:contrary", "reason": "on a whim"}\n'
    )
    (overlay.folder / "grants.json").write_text(json.dumps(allowing({"id": "web"})))
    before = overlay.gateway.status()["policy_version"]
    sh(
        f"{sys.executable} -m kairos_cli.main policy push --source {source} --data {overlay.folder}/grants.json"
        f" --tenant acme --dir {overlay.folder}/fabric"
    )
    hosts = (overlay.gateway, overlay.alice)
    wait_for("the policy", lambda: all(host.status().get("policy_version", 0) > before for host in hosts))
    assert not answered(overlay.alice)
    differing = wait_for("the event", lambda: audited(overlay, "verdict.differs"))
    assert (differing[0]["rule"], differing[0]["detail"]["endpoint_rule"]) == ("deny:contrary", "grant:web")


# Sends to all of the ports again and again: what a busy data plane dropped comes with the next round.
ATTEMPTS = """
import socket, sys, time
out = socket.socket(type=socket.SOCK_DGRAM)
out.bind(("", 33333))
print("open", flush=True)
while True:
    for port in sys.argv[2:]:
        try:
            out.sendto(b"x", (sys.argv[1], int(port)))
        except OSError:
            pass
        time.sleep(0.001)
"""


def test_both_ends_come_to_the_same_verdict(overlay: Overlay) -> None:
    attempts = sorted(random.Random(6).sample(range(1024, 65_000), 500))
    python, curl = str(Path(sys.executable).resolve()), shutil.which("curl")
    udp = {"from": ["tag:staff"], "to": [f"{WEB}/32"]}
    grants = allowing(
        {**udp, "id": "many", "ports": ["udp/10000-40000"], "log": False},
        {**udp, "id": "python", "ports": ["udp/40001-50000"], "apps": [python], "log": False},
        {**udp, "id": "curl", "ports": ["udp/50001-60000"], "apps": [curl], "log": False},
    )
    push(overlay, {**grants, "deny": [{**udp, "id": "some", "ports": ["udp/20000-25000"]}]})

    def verdicts(host: Host) -> dict[int, tuple[str, str]]:
        """By port."""
        flows = [each for each in host.tell("flows") if each["flow"].startswith("udp ") and f"> {WEB}:" in each["flow"]]
        decided = [each for each in flows if each["verdict"] != "pending"]
        return {int(each["flow"].split(f"> {WEB}:")[1].split()[0]): (each["verdict"], each["rule"]) for each in decided}

    def expected(port: int) -> tuple[str, str]:
        if 20_000 <= port <= 25_000:
            return "deny", "deny:some"
        if 10_000 <= port <= 50_000:
            return "allow", "grant:many" if port <= 40_000 else "grant:python"
        return "deny", "deny:default"

    seen: dict[int, tuple[str, str]] = {}
    arrived: dict[int, tuple[str, str]] = {}

    def all_seen() -> bool:
        seen.update(verdicts(overlay.alice))
        arrived.update(verdicts(overlay.gateway))
        allowed = {port for port, (verdict, _) in seen.items() if verdict == "allow"}
        return set(seen) == set(attempts) and allowed <= set(arrived)

    with program(overlay.alice.namespace, ATTEMPTS, WEB, *attempts):
        wait_for("all attempts at both ends", all_seen, 30)
    assert seen == {port: expected(port) for port in attempts}
    assert arrived == {port: said for port, said in seen.items() if said[0] == "allow"}


def test_a_real_opa_decides_where_the_configuration_says_so(overlay: Overlay) -> None:
    alice = overlay.alice
    kept = alice.config.read_text()
    alice.config.write_text(f'{kept}engine = "opa"\nopa = "{OPA}"\nbudget_ms = 1000\n')
    try:
        assert alice.stop() == 0
        overlay.push_policy(allowing({"id": "by-opa"}))
        overlay.up(alice)
        wait_for("the page", lambda: answered(alice))
        assert "grant:by-opa" in {flow["rule"] for flow in alice.tell("flows")}
    finally:
        alice.stop()
        alice.config.write_text(kept)
