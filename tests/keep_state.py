"""Makes the state that tests of an upgrade start from: a fabric of one revision, used in every way, and killed.

    python tests/keep_state.py REVISION FILE.tar.xz

It runs the code of REVISION, and is run once for each release (CONTRIBUTING.md). What is in the file is told in tests/fabric/states/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from fabric_files import change, read, tenant_objects

from fabric_host import FabricHost, client_of, default_provider, running_fabric
from kairos.api.push import AdmissionRequest, AdmissionVerdict, Isolation, Receipt, ToNode
from kairos.api.session import IsolationReport, SessionGrant, SessionRequest
from kairos.api.telemetry import Sample
from kairos.audit.event import Event
from kairos.audit.head import SignedHead
from kairos.crypto import labels
from kairos.identity import transcript
from kairos_cli.admin import AdminClient
from kairos_cli.policy import compile_bundle, push_bundle
from kairos_node.enrollment import enroll
from kairos_node.events import EventFeed
from kairos_node.fabric import FabricClient
from kairos_node.state import Identity, NodeState
from overlay import GRANTS, wait_for

TENANTS = ("acme", "globex")
SESSION_LIFE_S = 15
KIND = "kept.event"
_POSTURE = {"os": {"name": "Linux", "version": "6.1"}, "firewall": True}


class Held(Exception):
    """The enrollment waits for the operator."""


class Node:
    """An enrolled node that is online: it judges admissions as a gateway, and answers each isolation with a receipt."""

    def __init__(self, identity: Identity, client: FabricClient) -> None:
        self.identity, self.client = identity, client
        self.outcome = "allow"
        self.feed = EventFeed(client, self._pushed)

    async def _pushed(self, push: ToNode) -> None:
        node, key = self.identity.node, self.identity.key
        if isinstance(push, AdmissionRequest):
            signed = transcript.admission_verdict(push.id, push.input.encode(), self.outcome, "kept:judge", "a test")
            signature = key.sign(signed, labels.ADMISSION_VERDICT)
            verdict = AdmissionVerdict(push.id, self.outcome, "kept:judge", "a test", signature)  # type: ignore[arg-type]
            await self.feed.send(verdict)
        elif isinstance(push, Isolation):
            at_ms = int(time.time() * 1000)
            signed = transcript.isolation_receipt(push.id, push.node, node, push.state, at_ms)
            await self.feed.send(Receipt(push.id, push.state, at_ms, key.sign(signed, labels.ISOLATION_RECEIPT)))

    async def sends(self, count: int) -> list[str]:
        """So many audit events. Returns their ids."""
        events = [Event(os.urandom(16).hex(), time.time(), "", "", KIND, detail={"n": n}) for n in range(count)]
        assert await self.client.send_events(events) == count
        return [event.id for event in events]


@contextlib.asynccontextmanager
async def online(identity: Identity) -> AsyncIterator[Node]:
    async with client_of(identity) as client:
        node = Node(identity, client)
        running = asyncio.create_task(node.feed.run())
        try:
            await until("an events socket", lambda: node.feed.connected)
            yield node
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(what: str, ready: Any) -> Any:
    """Polls beside the nodes, which live in this loop."""
    return await asyncio.to_thread(wait_for, what, ready, 90.0)


class Keeper:
    """Fills one fabric. `facts` is what a test holds a later fabric against."""

    def __init__(self, host: FabricHost, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.admin = AdminClient(host.operator)
        self.nodes: dict[str, str] = {}
        self.sessions: dict[str, dict[str, Any]] = {}

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self.host.admin, method, path, body)

    async def joins(self, tenant: str, name: str, role: str = "endpoint", **fields: Any) -> Identity:
        """Raises Held."""
        state = NodeState(self.folder / "nodes" / name)
        token = self.host.token(tenant, role, **fields)

        def progress(step: str, what: str) -> None:
            if step == "E5" and "approve " in what:
                self.nodes[name] = what.split("approve ")[1].rstrip("`")
                raise Held

        try:
            identity = await enroll(str(token), state, default_provider(), name, progress)
        except Held:
            if role != "gateway" or name in ("held", "denied"):
                raise
            await self.call("POST", f"/{tenant}/devices/{self.nodes[name]}/approve", {})
            identity = await enroll(str(token), state, default_provider(), name, lambda *_: None)
        self.nodes[name] = identity.node
        return identity

    async def opens(self, name: str, node: Node, **wanted: Any) -> SessionGrant:
        grant = await node.client.open_session(SessionRequest(_POSTURE, **wanted))
        self.sessions[name] = msgspec.to_builtins(grant) | {"node": node.identity.node}
        return grant

    async def sealed(self, tenant: str) -> None:
        """Awaits the queue, seals, and keeps the head."""
        await asyncio.to_thread(self._drained, tenant)
        await asyncio.to_thread(self.host.sweep, tenant)
        head = await asyncio.to_thread(self.admin.get, f"/v1/tenants/{tenant}/audit/head", SignedHead)
        (self.folder / "heads").mkdir(exist_ok=True)
        (self.folder / f"heads/{tenant}-{head.size}.json").write_bytes(msgspec.json.encode(head) + b"\n")

    def _object(self, tenant: str, sql: str) -> list[Any]:
        return read(tenant_objects(self.host.fabric.state)[tenant], sql)

    def _drained(self, tenant: str) -> None:
        """Returns when no event of the tenant is on its way."""
        wait_for("an empty outbox", lambda: not self._object(tenant, "SELECT 1 FROM outbox"), 90.0)

    async def fill(self) -> None:
        for tenant in TENANTS:
            await self.call("POST", "", {"tenant": tenant})
            for number, name in enumerate(("office", "lab")):
                prefixes = [f"10.{7 + number}.0.0/24", f"fd0{7 + number}::/64"]
                vni = {"name": name, "prefixes": prefixes, "selectors": ["tag:staff"], "dns_suffix": f"{name}.test"}
                await self.call("POST", f"/{tenant}/vnis", vni)
        gateway = await self.joins("acme", "gateway", "gateway", vnis=["office", "lab"])
        async with online(gateway) as judge:
            await self._fill_acme(judge)
            other = await self.joins("globex", "globex-gateway", "gateway")
            async with online(other):
                await self._fill_globex()
                await self._leave(judge)

    async def _fill_acme(self, gateway: Node) -> None:
        tags: dict[str, Any] = {"vnis": ["office"], "tags": ["staff"], "groups": ["people"], "owner": "ann"}
        alice, bob, mallory, lost = [
            await self.joins("acme", name, **tags) for name in ("alice", "bob", "mallory", "lost")
        ]
        second = await self.joins("acme", "second", "gateway", vnis=["office", "lab"])
        await self._await_approval(gateway)
        await self.call("PUT", f"/acme/vnis/lab/members/{bob.node}", {"addresses": ["10.8.0.77"]})
        await self.call("POST", "/acme/interconnects", {
            "a": "office", "b": "lab", "maps": [{"vni": "lab", "prefix": "10.8.0.0/24", "seen": "10.108.0.0/24"}],
        })  # fmt: skip
        await self.call("PUT", f"/acme/gateways/{second.node}", {"priority": 200, "weight": 50})
        await self._push_policies(alice)
        await self.call("POST", "/acme/admins", {"name": "olga", "role": "operator", "secret_hash": "A" * 43 + "="})
        await self.sealed("acme")
        async with online(alice) as a, online(bob) as b, online(mallory) as m:
            for node in (a, b, m):
                await node.client.report_posture(_POSTURE)
                await node.client.send_sample(_sample())
            await a.client.advertise({"office": ["192.168.70.0/24", "192.168.71.0/24"]})
            approval = {"prefix": "192.168.70.0/24", "node": alice.node, "approved": True}
            await self.call("PUT", "/acme/vnis/office/routes", approval)
            await self._relay(gateway, a)
            await self.opens("isolated", m)
            await b.client.end_session((await self.opens("ended", b)).session)
            await self._isolate(mallory.node, bob.node, gateway)
            await a.sends(40)
            await self.call("POST", f"/acme/certificates/{lost.certificate.serial}/revoke", {"reason": "lost"})
            await self.call("DELETE", f"/acme/devices/{lost.node}")
            await self.sealed("acme")
            expired = await self.opens("expired", b)
            await until("its end", lambda: time.time() > expired.expires_at)

    async def _await_approval(self, gateway: Node) -> None:
        for outcome, name in (("hold", "held"), ("deny", "denied")):
            gateway.outcome = outcome
            with contextlib.suppress(Held, Exception):
                await self.joins("acme", name)
        gateway.outcome = "allow"

    async def _push_policies(self, reader: Identity) -> None:
        """Two versions of one bundle, which packs to half of two bundles."""
        grants = self.folder / "grants.json"
        grants.write_text(json.dumps(GRANTS))
        bundle = await asyncio.to_thread(compile_bundle, Path(__file__).parents[1] / "policies", grants)
        for _ in range(2):
            await asyncio.to_thread(push_bundle, self.admin, "acme", bundle)
        async with client_of(reader) as client:
            await client.policy_bundle(2)  # and it is in the cache

    async def _relay(self, gateway: Node, endpoint: Node) -> None:
        """Both ends have been at the gateway's relay object."""
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            for name, node in (("gateway", gateway), ("endpoint", endpoint)):
                grant = await self.opens(f"relayed-{name}", node, gateway=gateway.identity.node)
                headers = {"Authorization": f"Bearer {grant.token}"}
                await stack.enter_async_context(http.ws_connect(grant.gateways[0].relay_url, headers=headers))

    async def _isolate(self, stays: str, released: str, gateway: Node) -> None:
        await self.call("POST", f"/acme/devices/{stays}/isolate", {"reason": "stolen"})
        await gateway.client.report_isolation(IsolationReport(released, "kept:rule", "spoofed", 2, {"spoofed": 7}))
        for node in (stays, released):
            await until("receipts", lambda node=node: len(self._receipts(node)) >= 4)
        await self.call("POST", f"/acme/devices/{released}/release", {"reason": "found"})
        await until("receipts of the release", lambda: len(self._receipts(released)) >= 3)

    def _receipts(self, node: str) -> Sequence[Any]:
        receipts: Sequence[Any] = self.host.admin("GET", f"/acme/devices/{node}/isolation").get("receipts", [])
        return receipts

    async def _fill_globex(self) -> None:
        await self.joins("globex", "globex-endpoint", vnis=["office"])
        await self.call("PUT", "/globex/audit/retention", {"days": 3650})
        await self.sealed("globex")

    async def _leave(self, gateway: Node) -> None:
        """What is live, not sealed, or on its way when the fabric is killed."""
        unsealed = await gateway.sends(30)
        await asyncio.to_thread(self._drained, "acme")
        await self.opens("live", gateway)
        answers = await asyncio.to_thread(self._answers)
        [(waiting,)] = self._object("acme", "SELECT count(*) FROM log_events WHERE line <> ''")
        assert waiting >= len(unsealed), "they were sealed before the fabric was killed: it is too slow"
        on_the_way = await gateway.sends(20)
        os.killpg(self.host.fabric.group("control"), signal.SIGKILL)
        facts = {
            "kept_at": time.time(),
            "nodes": self.nodes,
            "sessions": self.sessions,
            "answers": answers,
            "unsealed": unsealed,
            "on_the_way": on_the_way,
        }
        (self.folder / "facts.json").write_text(json.dumps(facts, indent=1))

    def _answers(self) -> dict[str, Any]:
        """What the operator's API says of everything."""
        paths = ["/v1/tenants", "/v1/admins"]
        for tenant in TENANTS:
            root = f"/v1/tenants/{tenant}"
            paths += [f"{root}/{what}" for what in (
                "vnis", "vnis/office/members", "vnis/lab/members", "interconnects", "routes", "tokens", "devices", "gateways",
                "certificates", "admins", "telemetry", "policy/versions", "audit", "audit/retention", "audit/head",
            )]  # fmt: skip
        paths += [f"/v1/tenants/acme/devices/{self.nodes[name]}/isolation" for name in ("mallory", "bob")]
        paths += [f"/v1/tenants/acme/devices/{self.nodes[name]}/posture" for name in ("alice", "bob")]
        return {path: self._answer(path) for path in paths}

    def _answer(self, path: str) -> Any:
        whole = json.loads(self.admin.octets("GET", path))
        if "items" in whole:
            whole["items"] = self.admin.pages(path, Any)
            whole["next"] = ""
        return whole


def _sample() -> Sample:
    return Sample(1, 2, 3.0, 4.0, {"policy": 5}, 6, 0.7, 8, 9.0, 2, "0.1.0", 0.1, 11)


def keep(folder: Path) -> None:
    """Makes the fabric of the tree that this file stands in, in `folder`."""
    with running_fabric(folder / "operator", session_life_s=SESSION_LIFE_S) as host:
        asyncio.run(Keeper(host, folder).fill())
    state = folder / "operator/state"
    waiting = read(tenant_objects(state)["acme"], "SELECT id FROM outbox")
    assert waiting, "the queue was emptied before the fabric was killed"
    for path in state.rglob("*.sqlite"):
        change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        change(path, "PRAGMA journal_mode = DELETE")
        change(path, "VACUUM")
    for path in [*state.glob("*.log"), *state.glob("*.plan.json"), *state.glob("*/cache"), folder / "grants.json"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.rglob("lock"):
        path.unlink()


def main(revision: str, file: Path) -> None:
    from revisions import checkout

    with tempfile.TemporaryDirectory() as temporary:
        tree = checkout(revision, Path(temporary) / "tree")
        for name in ("keep_state.py", "fabric_files.py"):
            shutil.copy(Path(__file__).with_name(name), tree.root / "tests")
        folder = Path(temporary) / "state"
        print(tree.python("tests/keep_state.py", str(folder)), end="")
        with tarfile.open(file, "w:xz", preset=9) as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)


if __name__ == "__main__":
    keep(Path(sys.argv[1])) if len(sys.argv) == 2 else main(sys.argv[1], Path(sys.argv[2]))
