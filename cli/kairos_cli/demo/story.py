"""The story that `kairos demo` tells: a fabric, a gateway, two endpoints and a web server, and what policy lets them do."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kairos_cli.demo.grants import DEMO_GRANTS
from kairos_cli.demo.hosts import INTERNET, OFFICE, OFFICE_WIRING, Daemon, DemoError, Lab, Wiring
from kairos_cli.demo.report import Report
from kairos_cli.demo.traffic import iperf3, probe

TENANT = "acme"
PREFIX, PREFIX6 = "10.7.0.0/24", "fd07::/64"
OFFICE_NETWORK = "192.168.50.0/24"
WEB = OFFICE["web"]
ALLOWED_PORT, DENIED_PORT, IPERF_PORT = 8080, 9090, 5201
_READY_S = 30.0
_RECOVERY_S = 5.0

Action = Callable[[], str]
Chapter = tuple[str, list[tuple[str, Action]]]


class Story:
    """grants: the policy that its tenant begins with. foundations: chapters that the rest stands on."""

    grants: dict[str, Any] = DEMO_GRANTS
    wiring: Wiring = OFFICE_WIRING
    foundations = 3

    def __init__(self, lab: Lab, report: Report, suite: str, quick: bool) -> None:
        self._lab, self._report, self._suite = lab, report, suite
        self._enrollments, self._setups, self._seconds = (5, 3, 2) if quick else (20, 10, 5)
        self._operator = lab.folder / "operator"
        self._daemons: dict[str, Daemon] = {}
        self._nodes: dict[str, str] = {}

    def chapters(self) -> list[Chapter]:
        return [
            ("The operator makes a fabric", self._fabric()),
            ("A gateway joins; the first of a tenant is the operator's to approve", self._gateway()),
            ("Two endpoints join, judged by the gateway's admission policy", self._endpoints()),
            ("Traffic through the relay: the fabric carries ciphertext", self._relayed()),
            ("The path moves to direct UDP by itself", self._direct()),
            ("Every connection attempt is decided by policy", self._policy()),
            ("What breaks comes back", self._recovery()),
            ("What happened is on record", self._audit()),
        ]

    def tell(self) -> None:
        """Chapters in order. A step that later ones stand on ends the telling when it fails."""
        chapters = self.chapters()
        for number, (title, steps) in enumerate(chapters):
            self._report.heading(title)
            for at, (name, action) in enumerate(steps):
                if not self._report.step(name, action) and number < self.foundations:
                    self._report.not_run(each for each, _ in steps[at + 1 :])
                    for _, rest in chapters[number + 1 :]:
                        self._report.not_run(each for each, _ in rest)
                    self._show_logs()
                    return

    def stop(self) -> None:
        """Daemons end before their namespaces do, and clean up after themselves."""
        for daemon in reversed(self._daemons.values()):
            daemon.stop()

    def say_how_to_play(self) -> None:
        kairos = f"{sys.executable} -m kairos_cli.main"
        print(
            f"\nIt is still running. Try:\n"
            f"  ip netns exec kairos-alice ping {self._address('gateway')}\n"
            f"  ip netns exec kairos-alice curl http://{WEB}:{ALLOWED_PORT}/\n"
            f"  ip netns exec kairos-alice {kairos} agent status --state {self._state('alice')}\n"
            f"  ip netns exec kairos-fabric {kairos} audit list --dir {self._operator} --tenant {TENANT}\n"
            f"  {kairos} demo --remove        to remove it all"
        )

    # -- chapters --------------------------------------------------------------------------------------------------------

    def _fabric(self) -> list[tuple[str, Action]]:
        url = f"http://{INTERNET['fabric']}:8787"

        def init() -> str:
            self._cli("fabric", "fabric", "init", "--dir", str(self._operator), "--url", url, "--suite", self._suite)
            return f"root CA, policy key, issuing CA; suite {self._suite}"

        def start() -> str:
            began = time.monotonic()
            daemon = self._start("fabric", "fabric", "fabric", "dev", "--dir", str(self._operator))

            def answers() -> bool:
                if not daemon.running:
                    raise DemoError(f"the fabric ended: {daemon.tail(1)}")
                return bool(probe(self._lab["fabric"], sys.executable, "http", f"{url}/v1/health")["status"] == 200)

            self._await("the fabric", answers)
            return f"workerd with D1, KV, R2, Queue and Durable Objects answers after {time.monotonic() - began:.1f} s"

        def tenant() -> str:
            self._cli("fabric", "tenant", "create", TENANT, *self._admin)
            self._push_policy(self.grants)
            return "its policy is compiled, signed with the offline key, pushed"

        return [
            ("make the keys", init),
            ("start the fabric", start),
            (f"create tenant {TENANT} and push its policy", tenant),
        ]

    def _gateway(self) -> list[tuple[str, Action]]:
        def enroll() -> str:
            token = self._token("--role", "gateway", "--tag", "gateway")
            waiting = self._start(
                "gateway-enroll", "gateway", "gateway", "enroll", token, "--state", self._state("gateway"), "--json"
            )
            held: list[str] = []

            def is_held() -> bool:
                held[:] = [each["node"] for each in self._listed("device") if each["status"] == "held"]
                return bool(held)

            self._await("the gateway's enrollment to be held", is_held)
            self._cli("fabric", "device", "approve", held[0], "--tenant", TENANT, *self._admin)
            self._await("the gateway's certificate", lambda: not waiting.running)
            self._nodes["gateway"] = held[0]
            self._daemons.pop("gateway-enroll")
            self._show_steps(json.loads(waiting.log.read_text()))
            return f"{held[0]}, approved by the operator"

        def start() -> str:
            self._run_gateway()
            self._await("the gateway at the relay", lambda: bool(self._status("gateway").get("relay")))
            return "one socket to the relay for all its endpoints, one UDP port for direct paths"

        def vni() -> str:
            self._cli(
                "fabric", "vni", "create", "office", "--prefix", PREFIX, "--prefix", PREFIX6,
                "--route", f"{OFFICE_NETWORK}={self._nodes['gateway']}", "--tenant", TENANT, *self._admin,
            )  # fmt: skip
            return f"{PREFIX}, {PREFIX6}, and {OFFICE_NETWORK} behind the gateway"

        return [("enroll the gateway", enroll), ("start the gateway", start), ("create VNI office", vni)]

    def _endpoints(self) -> list[tuple[str, Action]]:
        def join(name: str, *tags: str) -> Action:
            def action() -> str:
                answer = self._enroll(name, self._state(name), *tags)
                self._nodes[name] = answer["node"]
                self._show_steps(answer)
                return str(answer["node"])

            return action

        def many() -> str:
            times = []
            for number in range(self._enrollments):
                answer = self._enroll("bob", str(self._lab.folder / f"extra-{number}"), "--tag", "staff")
                times.append(answer["steps"][-1]["ms"])
            p50 = statistics.median(times)
            self._report.figures["enroll_p50_ms"] = round(p50, 1)
            return f"p50 {p50:.0f} ms, worst {max(times):.0f} ms"

        return [
            ("enroll alice, tagged staff", join("alice", "--tag", "staff")),
            ("enroll bob, tagged staff and web", join("bob", "--tag", "staff", "--tag", "web")),
            (f"enroll {self._enrollments} more, timed", many),
        ]

    def _relayed(self) -> list[tuple[str, Action]]:
        def start(name: str) -> Action:
            def action() -> str:
                self._run_agent(name)
                self._await_reply(name)
                tunnel = self._status(name)["tunnels"][0]
                for step in tunnel["steps"]:
                    self._report.protocol_step(step["step"], step["ms"], step["what"])
                return f"{tunnel['suite']}, {tunnel['kem']}, {tunnel['signature']}, path {tunnel['path']}"

            return action

        def web() -> str:
            web = self._lab["web"]
            for port in (ALLOWED_PORT, DENIED_PORT):
                self._daemons[f"http-{port}"] = web.start(
                    f"http-{port}", sys.executable, "-m", "http.server", str(port), "--directory", str(self._page())
                )
            self._daemons["iperf3"] = web.start("iperf3", "iperf3", "-s", "-p", str(IPERF_PORT))
            answer = self._fetch("alice", f"http://{WEB}:{ALLOWED_PORT}/")
            return f"{answer['bytes']} bytes from a host without an agent, {answer['ms']:.0f} ms"

        def throughput() -> str:
            mbit = iperf3(self._lab["alice"], WEB, self._seconds)
            self._report.figures["relay_tcp_mbit"] = round(mbit, 1)
            return f"{mbit:,.0f} Mbit/s, one TCP stream"

        return [
            ("start alice's agent", start("alice")),
            ("start bob's agent", start("bob")),
            ("HTTP from alice to web", web),
            ("iperf3 through the relay", throughput),
        ]

    def _direct(self) -> list[tuple[str, Action]]:
        def move() -> str:
            began = time.monotonic()
            for name in ("alice", "bob"):
                self._cli(name, "agent", "path", "auto", "--state", self._state(name))
            for name in ("alice", "bob"):
                self._await(f"{name}'s direct path", partial(self._is_direct, name))
            return f"after {(time.monotonic() - began) * 1000:.0f} ms: {self._path('alice')}; keys and flows stay"

        def throughput() -> str:
            mbit = iperf3(self._lab["alice"], WEB, self._seconds)
            self._report.figures["direct_tcp_mbit"] = round(mbit, 1)
            return f"{mbit:,.0f} Mbit/s, one TCP stream"

        def neighbours() -> str:
            page = str(self._page())
            self._daemons["bob-http"] = self._lab["bob"].start(
                "http", sys.executable, "-m", "http.server", str(ALLOWED_PORT), "--directory", page
            )
            answer = self._fetch("alice", f"http://{self._address('bob')}:{ALLOWED_PORT}/")
            return f"{answer['bytes']} bytes, turned around in the gateway's data plane, {answer['ms']:.0f} ms"

        return [("leave the relay", move), ("iperf3 directly", throughput), ("HTTP from alice to bob", neighbours)]

    def _policy(self) -> list[tuple[str, Action]]:
        def allowed() -> str:
            answer = probe(self._lab["alice"], sys.executable, "tcp", WEB, str(ALLOWED_PORT))
            expect(answer["outcome"] == "connected", f"alice to web:{ALLOWED_PORT}: {answer['outcome']}")
            return f"web:{ALLOWED_PORT} {answer['outcome']} in {answer['ms']:.1f} ms"

        def denied() -> str:
            answer = probe(self._lab["alice"], sys.executable, "tcp", WEB, str(DENIED_PORT))
            expect(answer["outcome"] in ("refused", "prohibited"), f"alice to web:{DENIED_PORT}: {answer['outcome']}")
            log = self._daemons["alice"].tail(40)
            line = next(
                (line for line in reversed(log.splitlines()) if str(DENIED_PORT) in line and "deny" in line), ""
            )
            expect(bool(line), "the agent's log does not name the rule")
            return f"web:{DENIED_PORT} {answer['outcome']} in {answer['ms']:.1f} ms: {line.split(': ', 1)[-1]}"

        return [("an allowed connection", allowed), ("a denied one fails at once", denied)]

    def _recovery(self) -> list[tuple[str, Action]]:
        def setups() -> str:
            times = []
            for _ in range(self._setups):
                self._cli("alice", "agent", "reconnect", "--state", self._state("alice"))
                seen = self._await_reply("alice")
                times.append((seen - self._status("alice")["tunnels"][0]["t1_at"]) * 1000)
            p50 = statistics.median(times)
            self._report.figures["tunnel_setup_p50_ms"] = round(p50, 1)
            return f"T1 to the first ping reply: p50 {p50:.0f} ms, worst {max(times):.0f} ms"

        def kill() -> str:
            self._daemons.pop("gateway").kill()
            began = time.monotonic()
            self._run_gateway()
            seconds = self._await_reply("alice") - began
            self._report.figures["gateway_recovery_s"] = round(seconds, 2)
            expect(seconds < _RECOVERY_S, f"it took {seconds:.1f} s")
            return f"killed and started again: alice's pings are answered after {seconds:.2f} s"

        return [(f"set the tunnel up {self._setups} times", setups), ("kill -9 the gateway", kill)]

    def _audit(self) -> list[tuple[str, Action]]:
        def trail() -> str:
            kinds: dict[str, int] = {}

            def complete() -> bool:
                kinds.clear()
                for event in self._listed("audit", "--limit", "1000"):
                    kinds[event["kind"]] = kinds.get(event["kind"], 0) + 1
                return {"certificate.issued", "session.opened", "policy.pushed"} <= set(kinds) and any(
                    kind.startswith("flow.") for kind in kinds
                )

            self._await("the audit to hold enrollments, sessions and flows", complete)
            return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))

        def clean() -> str:
            self._daemons.pop("bob").stop()
            links = self._lab["bob"].run("ip", "-br", "link").stdout
            rules = self._lab["bob"].run("ip", "rule").stdout
            left = [line for line in (links + rules).splitlines() if "kairos" in line or "proto 75" in line]
            expect(not left, f"left behind: {left}")
            return "no interface, route or rule of it is left"

        return [("read the audit", trail), ("stop bob's agent", clean)]

    # -- hosts and daemons -----------------------------------------------------------------------------------------------

    def _run_gateway(self) -> None:
        config = self._lab["gateway"].folder / "gateway.toml"
        config.write_text(f'listen = "{INTERNET["gateway"]}:51820"\nadvertise = ["{INTERNET["gateway"]}:51820"]\n')
        self._start("gateway", "gateway", "gateway", "run", "--state", self._state("gateway"), "--config", str(config))

    def _run_agent(self, name: str) -> None:
        config = self._lab[name].folder / "agent.toml"
        config.write_text('path = "relay"\n')
        self._start(name, name, "agent", "run", "--state", self._state(name), "--config", str(config))

    def _start(self, name: str, host: str, *verb: str) -> Daemon:
        daemon = self._lab[host].start(name, sys.executable, "-m", "kairos_cli.main", *verb)
        self._daemons[name] = daemon
        return daemon

    def _cli(self, host: str, *verb: str) -> str:
        done = self._lab[host].run(sys.executable, "-m", "kairos_cli.main", *verb)
        if done.returncode:
            raise DemoError(
                f"kairos {' '.join(verb[:2])}: {(done.stderr or done.stdout).strip().removeprefix('kairos: ')}"
            )
        return done.stdout

    @property
    def _admin(self) -> tuple[str, ...]:
        return ("--dir", str(self._operator))

    def _push_policy(self, grants: dict[str, Any], tenant: str = TENANT) -> None:
        path = self._lab.folder / "grants.json"
        path.write_text(json.dumps(grants))
        self._cli("fabric", "policy", "push", "--data", str(path), "--tenant", tenant, *self._admin)

    def _state(self, name: str) -> str:
        return str(self._lab.folder / f"{name}-state")

    def _token(self, *options: str, tenant: str = TENANT) -> str:
        made = json.loads(self._cli("fabric", "token", "create", *options, "--tenant", tenant, "--json", *self._admin))
        return str(made["token"])

    def _enroll(self, host: str, state: str, *tags: str) -> dict[str, Any]:
        token = self._token("--vni", "office", *tags)
        answer: dict[str, Any] = json.loads(
            self._cli(host, "agent", "enroll", token, "--state", state, "--hostname", host, "--json")
        )
        return answer

    def _listed(self, group: str, *options: str, tenant: str = TENANT) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(
            self._cli("fabric", group, "list", *options, "--tenant", tenant, "--json", *self._admin)
        )
        return listed

    def _status(self, name: str) -> dict[str, Any]:
        group = "gateway" if name == "gateway" else "agent"
        try:
            status: dict[str, Any] = json.loads(
                self._cli(name, group, "status", "--state", self._state(name), "--json")
            )
        except DemoError:
            if not self._daemons[name].running:
                raise DemoError(f"{name}'s daemon ended: {self._daemons[name].tail(3)}") from None
            return {}
        return status

    def _path(self, name: str) -> str:
        tunnels = self._status(name).get("tunnels") or [{"path": "none"}]
        return str(tunnels[0]["path"])

    def _is_direct(self, name: str) -> bool:
        return self._path(name).startswith("direct")

    def _address(self, name: str) -> str:
        """The IPv4 address of a node in VNI office."""
        device = json.loads(
            self._cli("fabric", "device", "show", self._nodes[name], "--tenant", TENANT, "--json", *self._admin)
        )
        return str(next(each for each in device["addresses"] if "." in each)).partition("/")[0]

    def _page(self) -> Path:
        page = self._lab.folder / "page"
        page.mkdir(exist_ok=True)
        (page / "index.html").write_text("<p>hello from behind KairOS Red</p>\n")
        return page

    def _fetch(self, host: str, url: str) -> dict[str, Any]:
        answer: dict[str, Any] = {}

        def fetched() -> bool:
            answer.update(probe(self._lab[host], sys.executable, "http", url))
            return bool(answer["status"] == 200)

        self._await(f"{url} at {host}", fetched)
        return answer

    # -- waiting ---------------------------------------------------------------------------------------------------------

    def _await_reply(self, name: str) -> float:
        """When (CLOCK_MONOTONIC) the gateway first answered a ping of this host."""
        answer = probe(
            self._lab[name], sys.executable, "reply", self._address("gateway"), str(_READY_S), timeout=_READY_S + 10
        )
        if answer["at"] is None:
            raise DemoError(
                f"no ping was answered within {_READY_S:.0f} s; {name}'s log ends: {self._daemons[name].tail(3)}"
            )
        return float(answer["at"])

    def _await(self, what: str, holds: Callable[[], bool]) -> None:
        """Asks until it holds; each question is a process of its own, which is pause enough."""
        deadline = time.monotonic() + _READY_S
        while not holds():
            if time.monotonic() > deadline:
                raise DemoError(f"waited {_READY_S:.0f} s for {what}")

    def _show_steps(self, answer: dict[str, Any]) -> None:
        for step in answer["steps"]:
            self._report.protocol_step(step["step"], step["ms"], step["what"])

    def _show_logs(self) -> None:
        for daemon in self._daemons.values():
            if daemon.log.exists() and daemon.tail(1):
                print(f"\n--- {daemon.name}\n{daemon.tail()}")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)
