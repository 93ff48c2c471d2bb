"""A metered fabric in workerd with a population: started, seeded, connected; and what its process and its platform were asked for."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench.fabric_devices import Device, Wire, connect_all, connections, devices_of
from bench.fabric_population import Member, add_devices, add_tenants, grow_log, member
from bench.processes import members as processes_of
from fabric_host import FabricHost, Gatekeeper, push_policy
from kairos.api.enrollment import Role
from kairos.api.problem import ProblemError
from kairos_cli.policy import shipped_bundle
from kairos_node.crypto import provider_named
from kairos_node.enrollment import enroll
from kairos_node.state import Identity, NodeState

MODEL = "model-of-all-tenants"  # long, so that it is part of no key
ACTIVE = 100  # devices that are measured, spread over the population
_EVENTS_A_DEVICE = 10  # of the log at the start
_SETTLE_S = 60.0
_LOOK_S = 0.05
_CROWD_S = 900.0  # to open all events sockets
_FILES_A_SOCKET = 2  # of workerd, for one connection
_OTHER_FILES = 600  # of workerd: its databases, and the connections of requests


class Site:
    """host: the fabric; devices: all that are simulated; active: those that are measured; gateway: of the first tenant."""

    def __init__(self, host: FabricHost, http: aiohttp.ClientSession, wire: Wire, gateway: Member) -> None:
        self.host, self.wire = host, wire
        [self.gateway] = devices_of([gateway], host.operator.url, http)
        self.devices: list[Device] = []
        self.connected: list[Device] = []
        self._http = http
        self.log_bytes_an_event = 0.0
        self.log = 0  # the size of the first tenant's, when it was last sealed
        self.warm: set[str] = set()  # routes that were called before
        self._weight = 100
        self._log_sizes: dict[str, int] = {}
        self._pid = next(
            pid
            for pid in processes_of(host.fabric.group("control"))
            if Path(f"/proc/{pid}/comm").read_text().strip() == "workerd"
        )

    @property
    def active(self) -> list[Device]:
        return self.devices[:: max(1, len(self.devices) // ACTIVE)][:ACTIVE]

    def populate(self, members: Sequence[Member]) -> None:
        self.devices = devices_of(members, self.host.operator.url, self._http)

    async def connect(self) -> int:
        """Opens the events sockets of the gateway and of all devices, or of as many as this machine's limit on open files admits;
        returns how many of them came to be in time."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        await self.gateway.connect()
        opening = asyncio.create_task(connect_all(self.devices[: (most - _OTHER_FILES) // _FILES_A_SOCKET]))
        await asyncio.wait([opening], timeout=_CROWD_S)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        if opening.done() and not opening.cancelled() and (error := opening.exception()):
            raise error
        self.connected = [device for device in self.devices if device.connected]
        return len(self.connected)

    # -- what it costs -------------------------------------------------------------------------------------------------

    def cpu_s(self) -> float:
        """CPU time of workerd since it started, all threads (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self._pid << 3) | 2)

    def resident_bytes(self) -> int:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{self._pid}/status").read_text().splitlines() if ":" in line
        )
        return int(fields["VmRSS"].split()[0]) * 1024

    async def isolate_bytes(self) -> int:
        """Memory of the Worker's isolate, which all its objects share, after a collection of garbage: V8's heap, and what it refers to
        outside, the interpreter's memory above all. This is what Cloudflare limits to 128 MB."""
        await asyncio.to_thread(self.usage, "?collect")
        inspector = self.host.fabric.inspector("control").replace("ws:", "http:").rstrip("/")
        async with self._http.get(f"{inspector}/json") as answer:
            targets = json.loads(await answer.text())
        [debugger] = [each["webSocketDebuggerUrl"] for each in targets if ":user:" in each["id"]]
        async with self._http.ws_connect(debugger) as opened:
            await opened.send_json({"id": 1, "method": "Runtime.getHeapUsage"})
            while (answered := await opened.receive_json()).get("id") != 1:
                pass
        heap = answered["result"]
        return int(heap["usedSize"] + heap["embedderHeapUsedSize"] + heap["backingStorageSize"])

    def usage(self, options: str = "") -> Counter[str]:
        """What the Workers have asked of the platform so far (workers/local/meter.mjs)."""
        with urllib.request.urlopen(f"{self.host.operator.url}/local/usage{options}", timeout=60) as answer:
            return Counter(json.loads(answer.read()))

    async def settled(self) -> Counter[str]:
        """The usage once the queues' consumers have taken all there is."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            usage = self.usage()
            if usage["queue_taken"] >= usage["queue_sent"]:
                return usage
            if time.monotonic() > deadline:
                raise RuntimeError(f"the queues did not run empty in {_SETTLE_S:.0f} s: {dict(usage)}")
            await asyncio.sleep(_LOOK_S)

    # -- what nobody's device asks -------------------------------------------------------------------------------------

    async def ask_internal(self, what: str, purpose: str, tenant: str, body: bytes) -> None:
        """As the relay or a queue asks the control plane. Raises ConnectionError."""
        headers = {"Authorization": self.host.bearer(purpose), "Content-Type": "application/json"}
        url = f"{self.host.operator.url}/internal/{what}/{tenant}"
        async with self._http.post(url, data=body, headers=headers) as answer:
            if answer.status >= 300:
                raise ConnectionError(f"{url}: {answer.status} {(await answer.text())[:200]}")

    def next_weight(self) -> int:
        """One that the gateway does not have."""
        self._weight = 100 + (self._weight - 99) % 100
        return self._weight

    async def next_policy_version(self) -> int:
        """After the one in force."""
        record = await asyncio.to_thread(self.host.admin, "GET", f"/{MODEL}/policy")
        version: int = record["version"]
        return version + 1

    def pushes_taken(self) -> int:
        """That have come to the devices and the gateway."""
        return sum(each.pushes for each in [*self.connected, self.gateway])

    async def all_taken(self, before: int, count: int) -> None:
        """Returns when so many more pushes have come."""
        deadline = time.monotonic() + _SETTLE_S
        while self.pushes_taken() - before < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.pushes_taken() - before} of {count} pushes came in {_SETTLE_S:.0f} s")
            await asyncio.sleep(_LOOK_S)

    async def log_size(self, tenant: str) -> int:
        """Of the newest sealed head, as it was when we first asked; 0: there is none."""
        if tenant not in self._log_sizes:
            self._log_sizes[tenant] = await self._head_size(tenant)
        return self._log_sizes[tenant]

    async def _head_size(self, tenant: str) -> int:
        try:
            head = await asyncio.to_thread(self.host.admin, "GET", f"/{tenant}/audit/head")
        except ProblemError:  # nothing was ever recorded
            return 0
        size: int = head["size"]
        return size

    async def seal(self) -> int:
        """All events of the first tenant are under a signed head now; returns the size of its log."""
        await self.settled()
        await asyncio.to_thread(self.host.sweep, MODEL)
        await self.settled()
        self.log = await self._head_size(MODEL)
        return self.log


class Model:
    """A fabric's state with one tenant in it: a gateway and an endpoint that enrolled for real (E1 to E6) and have done all that a node
    does. Every population grows out of a copy of it."""

    def __init__(self, host: FabricHost, folder: Path) -> None:
        """folder: for states of nodes and copies; host: runs, and is stopped when this returns."""
        self.host = host
        self.provider = provider_named("oqs")
        self._state, self._kept = host.fabric.state, folder / "model"
        self.identity, self.gateway, self.endpoint = asyncio.run(self._enroll(folder))
        host.fabric.stop()
        shutil.copytree(self._state, self._kept)

    @asynccontextmanager
    async def of_devices(self, count: int) -> AsyncIterator[Site]:
        """One tenant of `count` devices and a gateway, all in one VNI, as they are after some time of use."""
        numbers = range(1, count + 1)
        members = [member(self.provider, self.host.operator.suite, MODEL, number) for number in numbers]
        self._restore()
        add_devices(self._state, self.endpoint, members)
        events = _EVENTS_A_DEVICE * count
        log_bytes = grow_log(self._state, self.host.operator, self.provider, MODEL, events)
        async with self._running() as site:
            site.log_bytes_an_event = log_bytes
            site.populate(members)
            yield site

    @asynccontextmanager
    async def of_tenants(self, tenants: int, devices: int) -> AsyncIterator[Site]:
        """So many tenants with so many devices each, and a VNI and a gateway of their own. The devices stand tenant by tenant."""

        def node(tenant: str, number: int) -> Member:
            role: Role = "endpoint" if number else "gateway"
            return member(self.provider, self.host.operator.suite, tenant, number, role)

        first = [node(MODEL, number) for number in range(1, devices + 1)]
        names = [f"tenant-{number}" for number in range(2, tenants + 1)]
        others = [[node(name, number) for number in range(devices + 1)] for name in names]
        self._restore()
        add_devices(self._state, self.endpoint, first)
        add_tenants(self._state, [self.gateway, *first], others)
        async with self._running() as site:
            site.populate([*first, *(each for nodes in others for each in nodes[1:])])
            yield site

    def _restore(self) -> None:
        shutil.rmtree(self._state)
        shutil.copytree(self._kept, self._state)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Site]:
        await asyncio.to_thread(self.host.fabric.start)
        try:
            async with _site(self.host, self.gateway) as site:
                yield site
        finally:
            await asyncio.to_thread(self.host.fabric.stop)

    async def _enroll(self, folder: Path) -> tuple[Identity, Member, Member]:
        host = self.host

        def prepare() -> None:
            host.tenant_without_vni(MODEL)
            host.admin("POST", f"/{MODEL}/vnis", {"name": "office", "prefixes": ["10.64.0.0/14", "fd07::/64"]})
            push_policy(host, 1, shipped_bundle(), MODEL)

        await asyncio.to_thread(prepare)
        gateway = await host.first_gateway(MODEL, NodeState(folder / "gateway"), self.provider)
        with Gatekeeper(gateway, lambda _: ("allow", "it is the model")):
            token = await asyncio.to_thread(host.token, MODEL, "endpoint")
            state = NodeState(folder / "endpoint")
            endpoint = await enroll(str(token), state, self.provider, "model", lambda *_: None)
        first, second = Member(MODEL, 0, gateway.node, gateway.key), Member(MODEL, 0, endpoint.node, endpoint.key)
        async with _site(host, first) as site:
            site.populate([second])
            [device] = site.devices
            await device.open_session()
            await device.report_posture()
            await device.send_sample()
            await device.send_events(5)
            await device.renew_certificate()
            await site.seal()
        return endpoint, first, second


@asynccontextmanager
async def _site(host: FabricHost, gateway: Member) -> AsyncIterator[Site]:
    wire = Wire()
    async with connections(wire) as http:
        site = Site(host, http, wire, gateway)
        try:
            yield site
        finally:
            await asyncio.gather(*(each.disconnect() for each in [*site.connected, site.gateway]))
