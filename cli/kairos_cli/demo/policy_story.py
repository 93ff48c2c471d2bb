"""`kairos demo policy`: what policy does to programs, to grants that end, and to connections that live through a push."""

from __future__ import annotations

import json
import shutil
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from kairos_cli.demo.grants import DEMO_GRANTS
from kairos_cli.demo.story import TENANT, WEB, Action, Chapter, Story, expect
from kairos_cli.demo.traffic import Iperf, Stream, probe

SERVICE, KEPT, CUT, ENDING = 8080, 5201, 5202, 8090
CURL = shutil.which("curl") or "/usr/bin/curl"
_GRANT_S = 5  # the grant that ends lives so long
_FELT_S = 1.0  # a change is felt within, once both ends have it
_STREAM_S = 15  # longer than a push takes


def _grant(name: str, port: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "from": ["tag:staff"], "to": ["192.168.50.0/24"], "ports": [f"tcp/{port}"], **more}


def _policy(*allow: dict[str, Any]) -> dict[str, Any]:
    """Of all the tenant may do, curl alone may reach the service."""
    ping = {"id": "ping", "from": ["*"], "to": ["*"], "ports": ["icmp"]}
    return {"admission": DEMO_GRANTS["admission"], "allow": [ping, _grant("curl-only", SERVICE, apps=[CURL]), *allow]}


_KEPT, _CUT, _BRIEF = _grant("kept", KEPT), _grant("cut", CUT), _grant("brief", ENDING)


class PolicyStory(Story):
    grants = _policy(_KEPT, _CUT)

    def chapters(self) -> list[Chapter]:
        return [
            ("The operator makes a fabric", self._fabric()),
            ("A gateway joins", self._gateway()),
            ("An endpoint joins", [*self._endpoints()[:1], *self._relayed()[:1], ("start the servers", self._servers)]),
            (
                "One host, one user, two programs",
                [("curl reaches the service", self._curl), ("python does not", self._python)],
            ),
            ("A grant ends, and its connection with it", [("a connection ends with its grant", self._ending)]),
            ("A push cuts one live stream and leaves another", [("push without one grant", self._push_one_out)]),
            ("Both ends say why", self._why()),
        ]

    # -- chapters ----------------------------------------------------------------------------------------------------

    def _servers(self) -> str:
        web, page = self._lab["web"], str(self._page())
        for port in (SERVICE, ENDING):
            self._daemons[f"http-{port}"] = web.start(
                f"http-{port}", sys.executable, "-m", "http.server", str(port), "--directory", page
            )
        for port in (KEPT, CUT):
            self._daemons[f"iperf3-{port}"] = web.start(f"iperf3-{port}", "iperf3", "-s", "-p", str(port))
        self._await(
            "the servers", lambda: all(f":{port} " in self._listening() for port in (SERVICE, ENDING, KEPT, CUT))
        )
        self._cli("alice", "agent", "path", "auto", "--state", self._state("alice"))
        self._await("alice's direct path", lambda: self._is_direct("alice"))
        return f"two web servers, two iperf3; alice's path is {self._path('alice')}"

    def _curl(self) -> str:
        url = f"http://{WEB}:{SERVICE}/"
        done = self._lab["alice"].run(CURL, "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", url)
        expect(done.stdout == "200", f"curl got {done.stdout} {done.stderr.strip()}")
        return f"{CURL} got 200"

    def _python(self) -> str:
        answer = probe(self._lab["alice"], sys.executable, "tcp", WEB, str(SERVICE))
        expect(answer["outcome"] in ("refused", "prohibited"), f"python: {answer['outcome']}")
        return f"{answer['outcome']} in {answer['ms']:.1f} ms"

    def _ending(self) -> str:
        self._enforce(_policy(_KEPT, _CUT, _BRIEF))
        with Stream(self._lab["alice"], sys.executable, WEB, ENDING) as stream:
            ends = (datetime.now(UTC) + timedelta(seconds=_GRANT_S)).replace(microsecond=0)
            self._enforce(_policy(_KEPT, _CUT, {**_BRIEF, "expires_at": ends.isoformat()}))
            known = time.time()  # on a busy machine the news may come after the end
            cut_at = stream.cut_at()
        late_ms = max(0.0, (cut_at - max(ends.timestamp(), known)) * 1e3)
        self._report.figures["expiry_late_ms"] = round(late_ms, 1)
        expect(cut_at >= ends.timestamp(), "it was cut before its grant ended")
        expect(late_ms < _FELT_S * 1e3, f"it lived {late_ms:.0f} ms too long")
        return f"cut {late_ms:.0f} ms after the end of its grant"

    def _push_one_out(self) -> str:
        alice = self._lab["alice"]
        with Iperf(alice, WEB, KEPT, _STREAM_S) as kept, Iperf(alice, WEB, CUT, _STREAM_S) as cut:
            self._await("two live streams", lambda: self._flowing() >= {KEPT, CUT})
            self._enforce(_policy(_KEPT))
            enforced = time.monotonic()
            cut.await_end(_FELT_S)
            felt_ms = (time.monotonic() - enforced) * 1e3
            expect(not cut.complete, "the stream that is denied now ended as if nothing had happened")
            gap_ms = kept.longest_gap_ms()
        self._report.figures["bystander_gap_ms"] = gap_ms
        expect(gap_ms == 0, f"the other stream stood still for {gap_ms:.0f} ms")
        return f"both ends decide by it, {felt_ms:.0f} ms later the one stream is cut; the other: no gap"

    def _why(self) -> list[tuple[str, Action]]:
        def now() -> str:
            verdicts = {program: self._asked(program, SERVICE) for program in (CURL, sys.executable)}
            expect(verdicts[CURL] == ("allow", "grant:curl-only"), f"curl: {verdicts[CURL]}")
            expect(verdicts[sys.executable] == ("deny", "deny:default"), f"python: {verdicts[sys.executable]}")
            gone = [self._asked(CURL, port)[0] for port in (CUT, ENDING)]
            expect(
                gone == ["deny", "deny"] and self._asked(CURL, KEPT)[0] == "allow",
                "why does not tell what traffic felt",
            )
            return f"curl: {verdicts[CURL][1]}; python: {verdicts[sys.executable][1]}, but for the program"

        def then() -> str:
            for port in (SERVICE, ENDING, CUT):
                event = self._denied(port)
                told = json.loads(
                    self._cli("fabric", "why", "--decision", event["id"], "--tenant", TENANT, "--json", *self._admin)
                )
                again = told["decided_again"]
                expect((again["allow"], again["rule"]) == (False, event["rule"]), f"{event['subject']}: {again}")
            return "program, end and push: the bundle of then, asked again, gives the recorded verdict"

        return [("kairos why, now", now), ("kairos why --decision, then", then)]

    # -- asking ------------------------------------------------------------------------------------------------------

    def _enforce(self, grants: dict[str, Any]) -> None:
        """Pushes it, and returns when both ends decide by it."""
        self._push_policy(grants)
        shown = self._cli("fabric", "policy", "show", "--tenant", TENANT, "--json", *self._admin)
        version = json.loads(shown)["version"]

        def decided() -> bool:
            return all(self._status(name).get("policy_version") == version for name in ("gateway", "alice"))

        self._await(f"policy version {version} at both ends", decided)

    def _asked(self, program: str, port: int) -> tuple[str, str]:
        """Verdict and rule at the endpoint."""
        words = ("why", "alice", WEB, str(port), "--app", program, "--tenant", TENANT, "--json", *self._admin)
        decision = json.loads(self._cli("fabric", *words))["decisions"]["egress"]
        return "allow" if decision["allow"] else "deny", decision["rule"]

    def _denied(self, port: int) -> dict[str, Any]:
        """The newest event that says so of this port at web."""
        found: list[dict[str, Any]] = []

        def recorded() -> bool:
            found[:] = [
                event
                for event in self._listed("audit", "--kind", "flow.denied", "--limit", "200")
                if event["detail"]["input"]["dst"] == {"ip": WEB, "port": port}
            ]
            return bool(found)

        self._await(f"a denied connection to port {port} in the audit", recorded)
        return found[0]

    def _flowing(self) -> set[int]:
        """Ports of web to which allowed flows have carried data."""
        flows = json.loads(self._cli("alice", "agent", "flows", "--state", self._state("alice"), "--json"))
        busy = [flow["flow"] for flow in flows if flow["verdict"] == "allow" and flow["bytes"][0] > 100_000]
        return {port for port in (KEPT, CUT) if any(f":{port} " in text for text in busy)}

    def _listening(self) -> str:
        return self._lab["web"].run("ss", "-Hltn").stdout
