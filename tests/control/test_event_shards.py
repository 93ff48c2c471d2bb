"""The events sockets of a large tenant: who is told what, whatever fails on the way, and that no node misses a change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane import ControlPlane, Device, Shard, Sockets
from kairos.api.admin import IsolationRecord
from kairos.api.problem import ProblemError
from kairos.api.push import (
    AdmissionVerdict,
    AuditHead,
    CertificateRefusal,
    Isolation,
    NetworkChanged,
    Receipt,
    Revocation,
    ToNode,
    Welcome,
    encode,
    parse_to_node_untrusted,
)
from kairos.api.session import SessionGrant
from kairos.crypto.suites import KR1
from kairos_control.http.call import Call
from kairos_control.ports import Delivery
from kairos_control.problems import problem
from kairos_control.services import event_sockets
from kairos_control.services.event_shard import EventShard
from kairos_control.services.event_sockets import RECONNECT, SHARDS_MAX, shard_count
from kairos_control.services.rate_limits import MESSAGE, Limits
from kairos_control.tenant import TenantServices

AT = "/v1/tenants/acme"
OBJECT_SOCKETS = 4
ENDPOINTS = 12


@dataclass
class Node:
    """An endpoint that holds its events socket open, where the control plane says."""

    plane: ControlPlane
    device: Device
    heard: list[ToNode] = field(default_factory=list)

    async def connect(self) -> None:
        """Raises a ProblemError: the fabric asks it to try again."""
        service, node = self.plane.service("acme"), self.device.node
        shard = service.event_sockets.shard_of(node)
        for _ in range(self.plane.turns_on_the_way):  # from the tenant's object by the entrypoint to the shard
            await asyncio.sleep(0)
        if shard is None:
            texts, sockets = [await service.node_events.welcome(node)], self.plane.sockets["acme"]
            if service is not self.plane.service("acme"):
                raise problem("unavailable", "the object died with this call")
        else:
            at = self.plane.shards["acme"][shard]
            texts, sockets = await at.service.welcome(node), at.sockets
        self.heard += map(parse_to_node_untrusted, texts)
        sockets.connected[node] = self.heard.append

    @property
    def shard(self) -> int | None:
        """Which one has its socket; None: the tenant's object, or none at all."""
        return next(
            (number for number, at in self.plane.shards["acme"].made.items() if at.sockets.is_online(self.device.node)),
            None,
        )

    @property
    def connected(self) -> bool:
        return self.shard is not None or self.plane.sockets["acme"].is_online(self.device.node)

    @property
    def revision(self) -> int:
        """The newest that it heard of; the last Welcome tells what holds."""
        return max((each.revision for each in self.heard if isinstance(each, Welcome | NetworkChanged)), default=0)


class Crowd:
    """A tenant that is spread, and all its endpoints."""

    def __init__(self, plane: ControlPlane, gateway: Device, nodes: list[Node]) -> None:
        self.plane, self.gateway, self.nodes = plane, gateway, nodes
        self._weights = itertools.cycle(range(1, 90))

    @property
    def service(self) -> TenantServices:
        return self.plane.service("acme")

    def rows(self) -> list[tuple[int, int]]:
        """What the object remembers."""
        return [(row["count"], row["in_use"]) for row in self.plane.local("acme").rows("SELECT * FROM event_shards")]

    @property
    def shards(self) -> dict[int, Shard]:
        return self.plane.shards["acme"].made

    def connect(self) -> None:
        """Those that are not connected."""

        async def connect() -> None:
            for node in self.nodes:
                while not node.connected:
                    await node.connect()
            await self.plane.settle()

        asyncio.run(connect())

    def who_heard(self, *kinds: type) -> set[str]:
        return {node.device.node for node in self.nodes if any(isinstance(each, kinds) for each in node.heard)}

    def forget(self) -> None:
        for node in self.nodes:
            node.heard.clear()

    def change(self) -> Call:
        """A call that changes what every node sees."""
        rank = {"priority": 1, "weight": next(self._weights)}
        headers = {"authorization": f"Bearer {self.plane.admin_token}"}
        return Call("PUT", f"{AT}/gateways/{self.gateway.node}", headers, msgspec.json.encode(rank))


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def sweep(plane: ControlPlane) -> None:
    async def run() -> None:
        assert await plane.service("acme").lifecycle.sweep()
        await plane.settle()

    asyncio.run(run())


@pytest.fixture
def crowd(plane: ControlPlane, gateway: Device) -> Crowd:
    plane.platform.settings = replace(plane.platform.settings, object_sockets=OBJECT_SOCKETS)
    plane.restart()
    token = plane.token(uses=ENDPOINTS)
    nodes = [Node(plane, Device()) for _ in range(ENDPOINTS)]
    for node in nodes:
        plane.enroll(node.device, token)
    sweep(plane)
    crowd = Crowd(plane, gateway, nodes)
    crowd.connect()
    crowd.forget()
    return crowd


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sockets, "_RETRY_FIRST_S", 0.0)


@pytest.mark.parametrize(
    ("endpoints", "count", "expected"),
    [
        (0, 0, 0), (2_000, 0, 0), (2_001, 0, 4), (8_000, 4, 4), (8_001, 4, 10), (20_001, 10, 22), (1_001, 10, 10), (1_000, 10, 0),
        (10**6, 22, SHARDS_MAX), (10**6, SHARDS_MAX, SHARDS_MAX),
    ],
)  # fmt: skip
def test_the_number_of_shards_grows_by_doubling(endpoints: int, count: int, expected: int) -> None:
    assert shard_count(endpoints, count, 2_000) == expected


def test_endpoints_are_spread_and_gateways_are_not(crowd: Crowd) -> None:
    for node in crowd.nodes:
        assert node.shard == crowd.service.event_sockets.shard_of(node.device.node) is not None
    assert len({node.shard for node in crowd.nodes}) > 1
    assert list(crowd.plane.sockets["acme"].connected) == [crowd.gateway.node]


def test_a_small_tenant_has_no_shard(plane: ControlPlane, gateway: Device) -> None:
    node = Node(plane, plane.joined())
    sweep(plane)
    asyncio.run(node.connect())
    assert plane.sockets["acme"].is_online(node.device.node)
    assert not plane.shards["acme"].made
    assert plane.local("acme").rows("SELECT * FROM event_shards") == []


# -- who hears what ----------------------------------------------------------------------------------------------------


def test_each_push_reaches_those_whom_it_concerns(crowd: Crowd) -> None:
    plane, [first, second, third, *_] = crowd.plane, crowd.nodes
    everyone = {node.device.node for node in crowd.nodes}
    crowd.plane.send(crowd.change())
    assert crowd.who_heard(NetworkChanged) == everyone
    crowd.forget()
    plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
    for node in (first, second):
        plane.admin("PUT", f"{AT}/vnis/lab/members/{node.device.node}", {})
    crowd.forget()
    plane.admin("PUT", f"{AT}/vnis/lab/members/{third.device.node}", {})
    assert crowd.who_heard(NetworkChanged) == {node.device.node for node in (first, second, third)}
    crowd.forget()
    plane.node(first.device, "POST", "/sessions", {}, SessionGrant)
    plane.node(first.device, "POST", "/posture", {"facts": {}})
    assert crowd.who_heard(object) == set(), "that was for the gateways"
    crowd.service.pushes.about(first.device.node, CertificateRefusal("0" * 32, first.device.node, 0, int(plane.now)))
    asyncio.run(plane.settle())
    assert crowd.who_heard(CertificateRefusal) == {first.device.node}
    crowd.forget()
    plane.seal()
    asyncio.run(plane.settle())
    assert crowd.who_heard(AuditHead) == everyone


def test_an_isolation_reaches_all_and_their_receipts_come_back(crowd: Crowd) -> None:
    isolated = crowd.nodes[0]
    path = f"{AT}/devices/{isolated.device.node}/isolat"
    record = crowd.plane.admin("POST", f"{path}e", {"reason": "stolen"}, IsolationRecord)
    everyone = {node.device.node for node in crowd.nodes}
    assert crowd.who_heard(Isolation) == everyone
    assert set(record.expected) == {*everyone, crowd.gateway.node, "relay"}

    async def answer() -> None:
        for node in crowd.nodes:
            assert node.shard is not None
            text = encode(Receipt(record.id, "isolated", 1, bytes(KR1.signature_bytes)))
            assert await crowd.shards[node.shard].service.received(node.device.node, text)

    asyncio.run(answer())
    shown = crowd.plane.admin("GET", f"{path}ion", None, IsolationRecord)
    assert {receipt.point for receipt in shown.receipts} >= everyone
    assert isolated.connected, "it hears of its release"


def test_a_revoked_node_is_told_and_its_socket_is_closed(crowd: Crowd) -> None:
    revoked, *others = crowd.nodes
    assert revoked.shard is not None
    shard = crowd.shards[revoked.shard]
    crowd.plane.admin("DELETE", f"{AT}/devices/{revoked.device.node}")
    assert crowd.who_heard(Revocation) == {node.device.node for node in crowd.nodes}
    assert shard.sockets.closed == [(revoked.device.node, 4003, "revoked")]
    assert all(node.connected for node in others)
    with refused("revoked"):
        asyncio.run(revoked.connect())


def test_a_tenant_that_is_deleted_closes_all_sockets(crowd: Crowd) -> None:
    crowd.plane.admin("DELETE", AT)
    assert not any(node.connected for node in crowd.nodes)
    assert {code for shard in crowd.shards.values() for _, code, _ in shard.sockets.closed} == {4003}


def test_the_operator_sees_who_is_online(crowd: Crowd) -> None:
    away, unknown = crowd.nodes[:2]
    assert away.shard is not None
    assert unknown.shard is not None
    crowd.shards[away.shard].sockets.connected.pop(away.device.node)
    listed = crowd.plane.admin("GET", f"{AT}/devices")["items"]
    assert {each["node"] for each in listed if not each.get("online")} == {away.device.node}
    crowd.shards[unknown.shard].reachable = False
    assert not crowd.plane.admin("GET", f"{AT}/devices/{unknown.device.node}").get("online")


# -- messages of nodes -------------------------------------------------------------------------------------------------


def test_what_is_no_message_does_not_leave_the_shard(crowd: Crowd) -> None:
    shard = EventShard(Sockets(), Away(), Limits(lambda: 0.0))
    assert not asyncio.run(shard.received("ep-a", "{"))
    receipt = encode(Receipt("0" * 32, "isolated", 1, bytes(KR1.signature_bytes)))
    for _ in range(MESSAGE.burst - 1):
        with refused("unavailable"):
            asyncio.run(shard.received("ep-a", receipt))
    assert not asyncio.run(shard.received("ep-a", receipt)), "there were too many"


def test_an_endpoint_gives_no_verdict_through_its_shard(crowd: Crowd) -> None:
    node = crowd.nodes[0]
    assert node.shard is not None
    verdict = encode(AdmissionVerdict("0" * 32, "allow", "a:b", "", bytes(KR1.signature_bytes)))
    assert asyncio.run(crowd.shards[node.shard].service.received(node.device.node, verdict)), "nobody waits for it"


# -- a socket that is being opened -------------------------------------------------------------------------------------


class Slow:
    """A tenant's object whose welcome takes until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def welcome(self, node: str) -> str:
        await self.go.wait()
        return "welcome"

    async def received(self, node: str, text: str) -> bool:
        return True


class Away:
    """One that does not answer."""

    async def welcome(self, node: str) -> str:
        raise problem("unavailable")

    async def received(self, node: str, text: str) -> bool:
        raise problem("unavailable")


async def opening(home: Slow) -> tuple[EventShard, asyncio.Task[list[str]]]:
    shard = EventShard(Sockets(), home, Limits(lambda: 0.0))
    welcome = asyncio.create_task(shard.welcome("ep-a"))
    await asyncio.sleep(0)
    return shard, welcome


def test_what_is_pushed_while_a_welcome_is_on_its_way_comes_after_it() -> None:
    async def scenario() -> None:
        home = Slow()
        shard, welcome = await opening(home)
        shard.deliver([Delivery(text="first"), Delivery(["ep-b"], "not for it"), Delivery(["ep-a"], "second")])
        home.go.set()
        assert await welcome == ["welcome", "first", "second"]

    asyncio.run(scenario())


@pytest.mark.parametrize("nodes", [None, ["ep-a"]])
def test_a_socket_that_is_closed_before_it_is_open_is_not_opened(nodes: list[str] | None) -> None:
    async def scenario() -> None:
        home = Slow()
        shard, welcome = await opening(home)
        shard.deliver([Delivery(nodes, code=RECONNECT, reason="reconnect")])
        home.go.set()
        with refused("unavailable"):
            await welcome

    asyncio.run(scenario())


def test_of_two_sockets_of_one_node_the_newer_is_opened() -> None:
    async def scenario() -> None:
        home = Slow()
        shard, older = await opening(home)
        newer = asyncio.create_task(shard.welcome("ep-a"))
        await asyncio.sleep(0)
        shard.deliver([Delivery(text="push")])
        home.go.set()
        with refused("unavailable"):
            await older
        assert await newer == ["welcome", "push"]

    asyncio.run(scenario())


def test_a_socket_is_opened_only_where_it_belongs(crowd: Crowd) -> None:
    node = crowd.nodes[0].device.node
    for wrong in (None, 7):
        with refused("unavailable"):
            asyncio.run(crowd.service.node_events.welcome(node, wrong))


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_shard_that_missed_a_push_closes_its_sockets_when_it_is_back(crowd: Crowd) -> None:
    there = [node for node in crowd.nodes if node.shard == crowd.nodes[0].shard]
    elsewhere = [node for node in crowd.nodes if node not in there]
    assert there[0].shard is not None
    shard = crowd.shards[there[0].shard]
    shard.failures = 3
    crowd.plane.send(crowd.change())
    assert not any(node.connected for node in there)
    assert {(code, reason) for _, code, reason in shard.sockets.closed} == {(RECONNECT, "reconnect")}
    assert all(node.connected for node in elsewhere)
    crowd.connect()
    assert len({node.revision for node in crowd.nodes}) == 1


def test_a_shard_that_hangs_delays_no_other(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = crowd.nodes[0].shard
    assert hangs is not None
    monkeypatch.setattr(event_sockets, "WAITING_MAX", 10_000)
    go, waiting = asyncio.Event(), list[int]()
    deliver = crowd.plane.shards["acme"].deliver

    async def delivered(shard: int, deliveries: Sequence[Delivery]) -> None:
        if shard == hangs:
            waiting.append(len(deliveries))
            await go.wait()
        await deliver(shard, deliveries)

    monkeypatch.setattr(crowd.plane.shards["acme"], "deliver", delivered)

    async def scenario() -> None:
        crowd.service.pushes.to_all(NetworkChanged(1000))
        working = asyncio.create_task(crowd.plane.settle())
        await asyncio.sleep(0)
        elsewhere = [node for node in crowd.nodes if node.shard != hangs]
        for revision in range(1001, 1400):  # more than may wait
            crowd.service.pushes.to_all(NetworkChanged(revision))
            for _ in range(10):
                await asyncio.sleep(0)
            assert {node.revision for node in elsewhere} == {revision}
        go.set()
        await working

    asyncio.run(scenario())
    assert waiting == [1, 1], "the rest was given up for a reset"
    assert [node.connected for node in crowd.nodes] == [node.shard is not None for node in crowd.nodes]
    assert not crowd.nodes[0].connected
    assert {node.revision for node in crowd.nodes if node.connected} == {1399}


def test_a_tenants_object_that_was_started_anew_lets_all_nodes_connect_again(crowd: Crowd) -> None:
    """It may have died between a change and its push."""
    crowd.plane.restart()
    crowd.plane.admin("GET", f"{AT}/vnis")
    assert not any(node.connected for node in crowd.nodes)
    crowd.connect()
    crowd.plane.admin("GET", f"{AT}/vnis")
    assert all(node.connected for node in crowd.nodes)


def test_shards_that_are_not_used_any_more_are_closed_even_after_a_restart(crowd: Crowd) -> None:
    for shard in crowd.shards.values():
        shard.reachable = False
    crowd.service.event_sockets.spread_for(OBJECT_SOCKETS // 2)
    assert crowd.rows() == [(0, 6)]
    crowd.plane.restart()  # before any of them heard of it
    for shard in crowd.shards.values():
        shard.reachable = True
    crowd.plane.admin("GET", f"{AT}/vnis")
    assert not any(node.connected for node in crowd.nodes)
    assert crowd.rows() == [(0, 0)]
    crowd.connect()
    assert {node.shard for node in crowd.nodes} == {None}


STEPS = ("change", "spread", "restart", "fail", "connect")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=25))
def test_no_node_misses_a_change(crowd: Crowd, steps: list[tuple[str, int]]) -> None:
    """Whatever happens beside each other: at the end all nodes are connected and know of the newest revision."""
    plane = crowd.plane
    plane.turns_on_the_way = 4

    async def run() -> None:
        async def step(what: str, number: int) -> None:
            if what == "change":
                assert (await plane.answer(crowd.change())).status == 200
            elif what == "spread":
                crowd.service.event_sockets.spread_for(10 * number)
            elif what == "restart":
                plane.restart()
                plane.service("acme")
            elif what == "fail":
                plane.shards["acme"][number].failures = 2
            else:
                await connect(crowd.nodes[number::3])

        async def connect(nodes: list[Node]) -> None:
            for node in nodes:
                if not node.connected:
                    with contextlib.suppress(ProblemError):
                        await node.connect()

        running = []
        for what, number in [("change", 0), *steps]:
            running.append(asyncio.create_task(step(what, number)))
            for _ in range(number):
                await asyncio.sleep(0)
        await asyncio.gather(*running)
        await plane.settle()
        while not all(node.connected for node in crowd.nodes):
            await connect(crowd.nodes)
            await plane.settle()

    asyncio.run(run())
    [(newest,)] = plane.store.database.execute("SELECT revision FROM tenants WHERE tenant = 'acme'")
    assert {node.revision for node in crowd.nodes} == {newest}
    for node in crowd.nodes:
        assert node.shard == crowd.service.event_sockets.shard_of(node.device.node)
