"""A large tenant in workerd: the events sockets of its endpoints are spread over further objects, and no node notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fabric_files import read, tenant_objects

from fabric_host import FabricHost, Gatekeeper, client_of, default_provider, push_policy, running_fabric
from kairos.api.push import Isolation, NetworkChanged, PolicyAnnouncement, Revocation, ToNode, Welcome
from kairos.errors import Refused
from kairos_node.enrollment import enroll
from kairos_node.events import EventFeed
from kairos_node.isolation import receipt
from kairos_node.state import Identity, NodeState

OBJECT_SOCKETS = 4
OFFICE, LAB = 8, 4  # endpoints
SHARDS = 6  # twice as many as twelve endpoints need
WAIT_S = 60.0
EVICTED_AFTER_S = 13.0  # workerd forgets a hibernating object after about ten seconds of silence


@dataclass
class Tenant:
    """acme, with a gateway that lets everyone in."""

    host: FabricHost
    gateway: Identity
    office: list[Identity]
    lab: list[Identity]

    @property
    def shards(self) -> list[int]:
        """How many it has; empty before it had any."""
        path = tenant_objects(self.host.fabric.state)["acme"]
        return [count for (count,) in read(path, "SELECT count FROM event_shards")]


@dataclass
class Node:
    """An endpoint's events socket, which it keeps open as the daemon does."""

    identity: Identity
    changed: asyncio.Condition
    heard: list[ToNode] = field(default_factory=list)
    refused: str = ""

    async def run(self) -> None:
        async with client_of(self.identity) as client:
            feed = EventFeed(client, lambda push: self._pushed(feed, push))
            try:
                await feed.run()
            except Refused as refusal:
                async with self.changed:
                    self.refused = refusal.code
                    self.changed.notify_all()

    async def _pushed(self, feed: EventFeed, push: ToNode) -> None:
        isolations = push.isolations if isinstance(push, Welcome) else [push] if isinstance(push, Isolation) else []
        for isolation in isolations:
            await feed.send(receipt(isolation, self.identity.node, self.identity.key))
        async with self.changed:
            self.heard.append(push)
            self.changed.notify_all()

    @property
    def welcomes(self) -> int:
        return sum(isinstance(push, Welcome) for push in self.heard)

    @property
    def policy(self) -> int:
        """The newest version that it knows of."""
        return max(
            push.policy_version if isinstance(push, Welcome) else push.record.version
            for push in self.heard
            if isinstance(push, Welcome | PolicyAnnouncement)
        )


@dataclass
class Crowd:
    """All endpoints, connected."""

    nodes: dict[str, Node]
    changed: asyncio.Condition

    async def until(self, come: Callable[[Node], bool], *identities: Identity) -> None:
        """Each of these nodes, or of all, has come so far."""
        nodes = [self.nodes[each.node] for each in identities] or list(self.nodes.values())
        async with asyncio.timeout(WAIT_S), self.changed:
            await self.changed.wait_for(lambda: all(map(come, nodes)))

    def who_heard(self, push: Callable[[ToNode], bool]) -> set[str]:
        return {name for name, node in self.nodes.items() if any(map(push, node.heard))}


@asynccontextmanager
async def connected(tenant: Tenant) -> AsyncIterator[Crowd]:
    changed = asyncio.Condition()
    crowd = Crowd({each.node: Node(each, changed) for each in (*tenant.office, *tenant.lab)}, changed)
    running = [asyncio.create_task(node.run()) for node in crowd.nodes.values()]
    try:
        await crowd.until(lambda node: node.welcomes > 0)
        yield crowd
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    folder = tmp_path_factory.mktemp("spread")
    with running_fabric(folder / "fabric", object_sockets=OBJECT_SOCKETS) as host:
        host.tenant("acme")
        host.admin("POST", "/acme/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
        gateway = asyncio.run(host.first_gateway("acme", NodeState(folder / "gateway"), default_provider()))
        with Gatekeeper(gateway, lambda _: ("allow", "")):
            yield Tenant(
                host, gateway, joined(host, folder, "office", OFFICE), joined(host, folder, "lab", LAB)
            )  # fmt: skip


def joined(host: FabricHost, folder: Path, vni: str, count: int) -> list[Identity]:
    token = str(host.token("acme", "endpoint", count, vnis=[vni]))
    return [
        asyncio.run(enroll(token, NodeState(folder / f"{vni}{each}"), default_provider(), vni, lambda *_: None))
        for each in range(count)
    ]


def test_a_tenant_that_grows_is_spread_and_no_push_is_lost(tenant: Tenant) -> None:
    assert tenant.shards == []

    async def scenario() -> None:
        async with connected(tenant) as crowd:
            growing = asyncio.create_task(asyncio.to_thread(tenant.host.sweep, "acme"))
            for version in range(1, 6):
                await asyncio.to_thread(push_policy, tenant.host, version, b"bundle")
            await growing
            await crowd.until(lambda node: node.welcomes == 2 and node.policy == 5)

    asyncio.run(scenario())
    assert tenant.shards == [SHARDS]


def test_each_push_reaches_those_whom_it_concerns(tenant: Tenant) -> None:
    everyone = {each.node for each in (*tenant.office, *tenant.lab)}

    async def scenario() -> None:
        async with connected(tenant) as crowd:
            before = next(push for push in crowd.nodes[tenant.lab[0].node].heard if isinstance(push, Welcome)).revision
            member = f"/acme/vnis/lab/members/{tenant.office[0].node}"
            await asyncio.to_thread(tenant.host.admin, "PUT", member, {})
            await asyncio.to_thread(push_policy, tenant.host, 6, b"bundle")  # the last that each of them hears
            await crowd.until(lambda node: node.policy == 6)
            told = crowd.who_heard(lambda push: isinstance(push, NetworkChanged) and push.revision > before)
            assert told == {each.node for each in (*tenant.lab, tenant.office[0])}
            assert all(node.welcomes == 1 for node in crowd.nodes.values())
            devices = await asyncio.to_thread(tenant.host.admin, "GET", "/acme/devices")
            assert {each["node"] for each in devices["items"] if each["online"]} == {*everyone, tenant.gateway.node}

    asyncio.run(scenario())


def test_an_isolation_is_enforced_and_a_revocation_closes_the_socket(tenant: Tenant) -> None:
    isolated, revoked = tenant.office[1], tenant.lab[-1]

    async def scenario() -> None:
        async with connected(tenant) as crowd:
            await asyncio.to_thread(
                tenant.host.admin, "POST", f"/acme/devices/{isolated.node}/isolate", {"reason": "stolen"}
            )
            await crowd.until(lambda node: any(isinstance(push, Isolation) for push in node.heard))
            async with asyncio.timeout(WAIT_S):
                while missing := await receipts_missing():
                    assert missing <= {each.node for each in tenant.office}
            await asyncio.to_thread(tenant.host.admin, "DELETE", f"/acme/devices/{revoked.node}")
            await crowd.until(lambda node: node.refused == "revoked", revoked)  # when it connected again
            tenant.lab.remove(revoked)
            await crowd.until(lambda node: any(isinstance(push, Revocation) for push in node.heard))

    async def receipts_missing() -> set[str]:
        record = await asyncio.to_thread(tenant.host.admin, "GET", f"/acme/devices/{isolated.node}/isolation")
        points = {each["point"] for each in record["receipts"]}
        assert {each.node for each in tenant.office} <= set(record["expected"])
        return {each for each in record["expected"] if each not in {*points, tenant.gateway.node, "relay"}}

    asyncio.run(scenario())


def test_sockets_outlive_the_eviction_of_their_shard(tenant: Tenant) -> None:
    async def scenario() -> None:
        async with connected(tenant) as crowd:
            silence = asyncio.create_task(asyncio.sleep(EVICTED_AFTER_S))  # the silence of the shards is what is tested
            while not silence.done():
                await asyncio.to_thread(tenant.host.admin, "GET", "/acme/policy")  # the tenant's object stays
                await asyncio.wait([silence], timeout=1)
            await asyncio.to_thread(push_policy, tenant.host, 7, b"bundle")
            await crowd.until(lambda node: node.policy == 7)
            assert all(node.welcomes == 1 for node in crowd.nodes.values())

    asyncio.run(scenario())


def test_a_push_after_a_silence_in_which_all_objects_were_evicted_is_heard(tenant: Tenant) -> None:
    """The tenant's object does not know any more what the nodes were told, so they may have to connect again."""

    async def scenario() -> None:
        async with connected(tenant) as crowd:
            await asyncio.sleep(EVICTED_AFTER_S)  # the silence is what is tested
            await asyncio.to_thread(push_policy, tenant.host, 8, b"bundle")
            await crowd.until(lambda node: node.policy == 8)

    asyncio.run(scenario())


def test_a_fabric_that_was_killed_is_found_again(tenant: Tenant) -> None:
    async def scenario() -> None:
        async with connected(tenant) as crowd:
            await asyncio.to_thread(tenant.host.fabric.kill, "control")
            await asyncio.to_thread(tenant.host.fabric.restart, "control")
            await asyncio.to_thread(push_policy, tenant.host, 9, b"bundle")
            await crowd.until(lambda node: node.policy == 9)

    asyncio.run(scenario())
    assert tenant.shards == [SHARDS]
