"""`kairos demo vni`: who can reach whom, in four VNIs of two tenants, against what policy says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from kairos_cli.demo.hosts import FLOOR, INTERNET, MANY, MANY_WIRING, DemoError, ip
from kairos_cli.demo.matrix import Cell, Watch, drawing, every_cell, mismatches
from kairos_cli.demo.segments import (
    ACME,
    ADMISSION,
    ENDPOINTS,
    FLOOR_NETWORKS,
    GATEWAYS,
    GLOBEX,
    LAB,
    OFFICE,
    PLACES,
    PLANT,
    PRINTER,
    PRINTER6,
    VNIS,
    Node,
    Place,
    grants_of,
)
from kairos_cli.demo.story import Action, Chapter, Story, expect

_ADDRESSES = INTERNET | MANY
_FLOOR6 = "fd70::1"
_TRY_S = 60.0
_NOT_SUDO = {"SUDO_USER": ""}  # else `kairos exec` would become the user who typed it, who may not look at packets


class VniStory(Story):
    wiring = MANY_WIRING
    foundations = 5

    def chapters(self) -> list[Chapter]:
        self._cells = every_cell()
        self._outcomes: dict[int, str] = {}
        self._captured: dict[Watch, list[dict[str, Any]]] = {}
        return [
            ("The operator makes a fabric", [*self._fabric()[:2], ("create two tenants", self._tenants)]),
            ("Each tenant has a gateway", [(f"enroll and start {node.name}", partial(self._join, node)) for node in GATEWAYS]),
            ("Four VNIs, two pairs with the same prefix", self._segments()),
            ("Endpoints join, one of them three VNIs", self._endpoints()),
            ("Everyone tries everyone: TCP, UDP and ICMP, IPv4 and IPv6", [
                ("try every cell", self._try),
                ("what was seen is what policy says", self._compare),
                ("nothing was captured at a wrong place", self._look_at_captures),
            ]),
        ]  # fmt: skip

    # -- chapters ----------------------------------------------------------------------------------------------------

    def _tenants(self) -> str:
        for tenant in (ACME, GLOBEX):
            self._cli("fabric", "tenant", "create", tenant, *self._admin)
            self._push_policy({"admission": ADMISSION, "allow": []}, tenant)
        return f"{ACME} and {GLOBEX}; nothing is allowed yet"

    def _join(self, node: Node) -> str:
        """A tenant's first gateway is the operator's to approve."""
        state = self._state(node.name)
        token = self._token("--role", "gateway", "--tag", "gateway", tenant=node.tenant)
        waiting = self._start(f"{node.name}-enroll", node.host, "gateway", "enroll", token, "--state", state, "--json")
        held: list[str] = []

        def is_held() -> bool:
            listed = self._listed("device", tenant=node.tenant)
            held[:] = [each["node"] for each in listed if each["status"] == "held"]
            return bool(held)

        self._await("the gateway's enrollment to be held", is_held)
        self._cli("fabric", "device", "approve", held[0], "--tenant", node.tenant, *self._admin)
        self._await("the gateway's certificate", lambda: not waiting.running)
        self._daemons.pop(f"{node.name}-enroll")
        self._nodes[node.name] = held[0]
        self._run(node)
        self._await(f"{node.name} at the relay", lambda: bool(self._of(node).get("relay")))
        return f"{held[0]}, approved by the operator"

    def _segments(self) -> list[tuple[str, Action]]:
        def apply() -> str:
            path = self._lab.folder / "segments.toml"
            path.write_text(self._declared())
            said = self._cli("fabric", "apply", str(path), *self._admin)
            return f"kairos apply: {said.splitlines()[-1]}; {OFFICE.name} and {LAB.name} are joined"

        def policy() -> str:
            for node in GATEWAYS:
                self._push_policy(grants_of(node.tenant, self._nodes[node.name]), node.tenant)
            return "signed, pushed"

        def floor() -> str:
            """The other IPv6 half of the wiring, and the printer's way to all it could know of."""
            name = self._lab["printer"].namespace
            ip("-n", name, "addr", "add", f"{PRINTER6}/64", "dev", "floor", "nodad")
            ip("-n", name, "route", "add", "default", "via", _FLOOR6)
            return f"{FLOOR['printer']}, {PRINTER6}: behind the uplink of {PLANT.name}"

        return [("describe them in one file", apply), ("push both policies", policy), ("the printer, no agent", floor)]

    def _endpoints(self) -> list[tuple[str, Action]]:
        def enroll(node: Node) -> str:
            token = self._token("--tag", node.tag, tenant=node.tenant)
            state = self._state(node.name)
            said = self._cli(node.host, "agent", "enroll", token, "--state", state, "--hostname", node.name, "--json")
            name = self._nodes[node.name] = str(json.loads(said)["node"])
            for vni, number in node.members:
                fixed = [word for prefix in vni.prefixes for word in ("--address", f"{prefix}{number}")]
                self._cli("fabric", "member", "add", vni.name, name, *fixed, "--tenant", node.tenant, *self._admin)
            self._run(node)
            where = ", ".join(vni.name for vni, _ in node.members)
            return f"{name} in {where} of {node.tenant}"

        steps: list[tuple[str, Action]] = [(f"enroll {node.name}", partial(enroll, node)) for node in ENDPOINTS]
        return [*steps, ("wait until all know their network", self._settled)]

    def _settled(self) -> str:
        versions = {tenant: self._policy_version(tenant) for tenant in (ACME, GLOBEX)}
        for node in (*GATEWAYS, *ENDPOINTS):
            self._await(f"{node.name} to be ready", partial(self._is_ready, node, versions[node.tenant]))
        return f"{len(ENDPOINTS)} agents on {len({node.host for node in ENDPOINTS})} hosts, {len(GATEWAYS)} gateways"

    def _try(self) -> str:
        """One place after the other, so that no attempt finds a flow that another began."""
        with self._watched() as watches:
            for place in PLACES:
                self._outcomes |= self._tried(place)
            self._captured = {watch: self._seen(process) for watch, process in watches}
        self._report.note(drawing(self._cells.values(), self._outcomes))
        self._report.note(
            "t u i: reached by TCP, UDP, ICMP over IPv4, then IPv6; -: not reached; !: policy says otherwise"
        )
        self._report.details["matrix"] = [self._told(cell) for cell in self._cells.values()]
        self._report.figures["matrix_cells"] = len(self._cells)
        allowed = sum(cell.allowed for cell in self._cells.values())
        return f"{len(self._cells)} cells, of which policy allows {allowed}"

    def _compare(self) -> str:
        wrong = mismatches(self._cells.values(), self._outcomes)
        self._report.figures["matrix_mismatches"] = len(wrong)
        expect(not wrong, "; ".join(wrong))
        return "every cell"

    def _look_at_captures(self) -> str:
        """Wrong places, after a look at the right ones: a capture that misses what is there would prove nothing."""
        leaks = {watch.name: watch.leaked(self._cells, seen) for watch, seen in self._captured.items()}
        self._report.figures["leaked_packets"] = sum(leaks.values())
        at_ends = {(watch.name, each["cell"]) for watch, seen in self._captured.items() for each in seen}
        missed = [
            str(cell)
            for cell in self._cells.values()
            if cell.allowed and not {(end.name, cell.number) for end in (cell.source, cell.target)} <= at_ends
        ]
        expect(not missed, f"not captured at both ends: {missed}")
        found = {name: count for name, count in leaks.items() if count}
        expect(not found, f"packets where they must not be: {found}")
        packets = sum(each["packets"] for seen in self._captured.values() for each in seen)
        return f"{packets} packets in {len(self._captured)} captures, each at one of its own ends"

    def say_how_to_play(self) -> None:
        kairos = f"{sys.executable} -m kairos_cli.main"
        print(
            f"\nIt is still running. Try:\n"
            f"  ip netns exec kairos-alice {kairos} exec --state {self._state('alice')} lab -- ping 10.7.0.22\n"
            f"  ip netns exec kairos-bob ping 10.7.0.11\n"
            f"  ip netns exec kairos-gateway {kairos} gateway flows --state {self._state('gateway')}\n"
            f"  {kairos} demo --remove        to remove it all"
        )

    def _told(self, cell: Cell) -> dict[str, Any]:
        """For --json."""
        return {
            "from": cell.source.name,
            "to": cell.target.name,
            "protocol": cell.protocol,
            "ip": cell.version,
            "allowed": cell.allowed,
            "seen": self._outcomes.get(cell.number, "not tried"),
        }

    # -- trying and watching -----------------------------------------------------------------------------------------

    def _tried(self, place: Place) -> dict[int, str]:
        """Outcomes of all cells of which it is the source."""
        cells = [
            {"number": cell.number, "protocol": cell.protocol, "address": cell.address, "name": cell.target.name}
            for cell in self._cells.values()
            if cell.source is place
        ]
        done = subprocess.run(
            self._inside(place, "kairos_cli.demo.reach"),
            input=json.dumps(cells),
            capture_output=True,
            text=True,
            timeout=_TRY_S,
            check=False,
            env={**os.environ, **_NOT_SUDO},
        )
        if done.returncode:
            raise DemoError(f"{place.name} could not try: {done.stderr.strip()[-200:]}")
        return {int(number): said for number, said in json.loads(done.stdout).items()}

    @contextmanager
    def _watched(self) -> Iterator[list[tuple[Watch, subprocess.Popen[str]]]]:
        """Every place answers and is watched, and so is everything between them."""
        commands = [
            (Watch(place.name, (place.name,)), self._inside(place, "kairos_cli.demo.place", place.name))
            for place in PLACES
        ]
        look = (sys.executable, "-m", "kairos_cli.demo.place")
        for name in ("internet", "gateway", "gateway2", "alice"):  # ciphertext only
            commands.append((Watch(name, ()), self._lab[name].command(*look)))
        commands.append((Watch("floor", (PRINTER.name,)), self._lab["floor"].command(*look)))
        for node in GATEWAYS:
            status = self._of(node)
            for vni in status["vnis"]:
                if vni["namespace"]:
                    ends = (PRINTER.name,) if vni["name"] == PLANT.name else ()
                    inside = f"--net=/proc/{status['pid']}/root/run/netns/{vni['namespace']}"
                    name = f"{vni['name']} in {node.name}"
                    commands.append((Watch(name, ends), self._lab[node.host].command("nsenter", inside, *look)))
        with ExitStack() as stack:
            yield [(watch, stack.enter_context(self._process(watch, command))) for watch, command in commands]

    @contextmanager
    def _process(self, watch: Watch, command: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **_NOT_SUDO}
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise DemoError(f"the capture at {watch.name}: {process.communicate()[1].strip()[-200:]}")
            yield process
        finally:
            process.kill()
            process.communicate()

    def _seen(self, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
        """What it saw, told when its input ends."""
        said, _ = process.communicate(timeout=_TRY_S)
        seen: list[dict[str, Any]] = json.loads(said)
        return seen

    def _inside(self, place: Place, module: str, *words: str) -> tuple[str, ...]:
        """The command that runs a module where this place is."""
        command: tuple[str, ...] = (sys.executable, "-m", module, *words)
        if place.node is not None and place.vni is not None and place.node.isolates:
            state = self._state(place.node.name)
            kairos = (sys.executable, "-m", "kairos_cli.main", "exec", "--state", state, place.vni.name, "--")
            command = (*kairos, *command)
        return self._lab[place.host].command(*command)

    # -- daemons -----------------------------------------------------------------------------------------------------

    def _run(self, node: Node) -> None:
        config = self._lab[node.host].folder / f"{node.name}.toml"
        config.write_text(self._configured(node))
        self._start(node.name, node.host, node.role, "run", "--state", self._state(node.name), "--config", str(config))

    def _configured(self, node: Node) -> str:
        if node.role == "agent":
            return 'isolate = "netns"\n' if node.isolates else ""
        own = f"{_ADDRESSES[node.host]}:51820"
        lines = [f'listen = "{own}"', f'advertise = ["{own}"]']
        if node.tenant == ACME:
            addresses = json.dumps([f"{FLOOR['gateway']}/24", f"{_FLOOR6}/64"])
            lines.append(
                f'[[uplink]]\nvni = "{PLANT.name}"\nmode = "routed"\ninterface = "floor"\naddresses = {addresses}'
            )
        return "\n".join(lines) + "\n"

    def _of(self, node: Node) -> dict[str, Any]:
        """Its status; empty while it does not answer."""
        daemon = self._daemons[node.name]
        try:
            said = self._cli(node.host, node.role, "status", "--state", self._state(node.name), "--json")
        except DemoError:
            expect(daemon.running, f"{node.name}'s daemon ended: {daemon.tail(3)}")
            return {}
        status: dict[str, Any] = json.loads(said)
        return status

    def _is_ready(self, node: Node, policy_version: int) -> bool:
        """It decides by that policy and stands in all its VNIs, with the way to the other side of an interconnect."""
        status = self._of(node)
        if status.get("policy_version") != policy_version:
            return False
        here = {vni["name"]: vni["routes"] for vni in status["vnis"]}
        if node.role == "gateway":
            return set(here) == {vni.name for vni in VNIS if vni.tenant == node.tenant}
        other = {OFFICE: LAB, LAB: OFFICE}
        joined = [(vni, f"{other[vni].seen[0]}0/24") for vni, _ in node.members if vni in other]
        return set(here) == {vni.name for vni, _ in node.members} and all(
            route in here[vni.name] for vni, route in joined
        )

    def _policy_version(self, tenant: str) -> int:
        shown = self._cli("fabric", "policy", "show", "--tenant", tenant, "--json", *self._admin)
        return int(json.loads(shown)["version"])

    def _declared(self) -> str:
        """The file for `kairos apply`."""
        lines = []
        for tenant in (ACME, GLOBEX):
            lines.append(f'[[tenant]]\nname = "{tenant}"')
            for vni in (each for each in VNIS if each.tenant == tenant):
                prefixes = list(_networks(vni.prefixes))
                lines.append(f'[[tenant.vni]]\nname = "{vni.name}"\nprefixes = {json.dumps(prefixes)}')
                if vni is PLANT:
                    via = self._nodes["gateway"]
                    routes = ", ".join(f'{{ prefix = "{net}", via = "{via}" }}' for net in FLOOR_NETWORKS)
                    lines.append(f"routes = [{routes}]")
            if tenant == ACME:
                names = [
                    f'{{ vni = "{vni.name}", prefix = "{prefix}", seen = "{seen}" }}'
                    for vni in (OFFICE, LAB)
                    for prefix, seen in zip(_networks(vni.prefixes), _networks(vni.seen), strict=True)
                ]
                lines.append(
                    f'[[tenant.interconnect]]\na = "{OFFICE.name}"\nb = "{LAB.name}"\nmap = [{", ".join(names)}]'
                )
        return "\n".join(lines) + "\n"


def _networks(prefixes: tuple[str, str]) -> tuple[str, str]:
    return f"{prefixes[0]}0/24", f"{prefixes[1]}/64"
