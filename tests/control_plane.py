"""The control plane on CPython: the Worker's own code over SQLite files of this process, real ML-DSA and a clock that tests move."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kairos.api.admin import TokenCreate, TokenRecord
from kairos.api.enrollment import Challenge, ChallengeResponse, Enrollment, EnrollRequest
from kairos.api.problem import CONTENT_TYPE, Problem, ProblemError
from kairos.api.push import AdmissionRequest, AdmissionVerdict, ToNode, encode, parse_to_node_untrusted
from kairos.api.session import Cut
from kairos.audit.event import Event
from kairos.crypto import labels
from kairos.crypto.provider import SigningKey
from kairos.crypto.suites import KR1
from kairos.identity import transcript
from kairos.identity.certificate import Certificate, parse_certificate_untrusted
from kairos.identity.signed_request import DEVICE_HEADER, SIGNATURE_HEADER, Proof
from kairos.identity.spiffe import is_gateway, node_id
from kairos_cli.fabric.cloudflare_limits import Meter
from kairos_control.fabric import FabricServices
from kairos_control.http import app
from kairos_control.http.authentication import limit_source
from kairos_control.http.call import Call, Reply, problem_reply
from kairos_control.ports import (
    DIRECTORY,
    ConstraintError,
    Delivery,
    EventHome,
    Issuer,
    Platform,
    Row,
    Settings,
    Statement,
    TenantPlatform,
)
from kairos_control.problems import problem
from kairos_control.services.event_shard import EventShard
from kairos_control.services.rate_limits import Limits
from kairos_control.store import database_schema, object_schema
from kairos_control.store.audit_index import AuditQuery
from kairos_control.tenant import TenantServices
from kairos_node.ca import make_issuer, make_root
from kairos_node.crypto import provider_named

ROOT = Path(__file__).parents[1]
PROVIDER = provider_named("cryptography")
DOMAIN = "kairos.test"
ADMIN_TOKEN = "an operator's token"
INTERNAL_KEY = "the workers' key"
START = 1_800_000_000.0
ANSWER_S = 1.0  # how long tests let a silent gateway be silent
_T = TypeVar("_T")
# Tables of requests that were made and of events on their way: a request that was refused is still a request that was made.
_PASSING = {"nonces", "requests_seen", "log_events", "log_nodes", "fabric_events", "fabric_marks", "sqlite_sequence"}


class Crash(BaseException):
    """The process dies here."""


class Binding:
    """What may be away: its calls then fail, as those of a binding do."""

    reachable = True

    def require(self) -> None:
        if not self.reachable:
            raise OSError("it is away")


class SqliteDatabase(Binding):
    """D1's behaviour: batches are transactions."""

    queries: int
    """Statements since `ControlPlane.send` began its last call."""
    steps: int
    """Instructions of SQLite's machine since then, in tens: in proportion to the rows that are read, and the same each time."""
    dies_in: int
    """The batch, counted from 1, at which the process dies."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.database = _database((ROOT / "schema.sql").read_text())
        self.database.execute("CREATE TABLE d1_migrations (name TEXT PRIMARY KEY)")
        names = [(path.name,) for path in (ROOT / "workers/migrations").glob("*.sql")]
        with self.database:
            self.database.executemany("INSERT INTO d1_migrations (name) VALUES (?)", names)
        self.dies_in = self.queries = self.steps = 0
        self.database.set_progress_handler(self._step, 10)

    def _step(self) -> int:
        self.steps += 1
        return 0

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        self.require()
        self._count(sql, values)
        return [dict(row) for row in self.database.execute(sql, values)]

    async def first(self, sql: str, *values: Any) -> Row | None:
        rows = await self.rows(sql, *values)
        return rows[0] if rows else None

    async def write(self, statements: Sequence[Statement]) -> None:
        self.require()
        for sql, values in statements:
            self._count(sql, values)
        self.dies_in -= 1
        if self.dies_in == 0:
            raise Crash
        try:
            with self.database:
                for sql, values in statements:
                    self.database.execute(sql, values)
        except sqlite3.IntegrityError as error:
            raise ConstraintError(str(error)) from None

    def _count(self, sql: str, values: Sequence[Any]) -> None:
        """Within a call, as Cloudflare counts; a test's own look at the records is not a query of an invocation."""
        self.queries += 1
        if self._meter.place:
            self._meter.query(sql, tuple(values))
        else:
            self._meter.statement(sql, tuple(values))

    async def size(self) -> int:
        [[pages]], [[size]] = (self.database.execute(f"PRAGMA {name}") for name in ("page_count", "page_size"))
        return int(pages * size)


class SqliteDatabases:
    """All of a fabric's, by binding."""

    def __init__(self, names: Sequence[str], meter: Meter) -> None:
        self.by_name = {name: SqliteDatabase(meter) for name in names}

    @property
    def directory(self) -> SqliteDatabase:
        return self.by_name[DIRECTORY]

    @property
    def names(self) -> Sequence[str]:
        return list(self.by_name)

    def of(self, name: str) -> SqliteDatabase:
        return self.by_name[name]


class SqliteLocal:
    """The SQLite of a Tenant object. `dies_in`: the statement, counted from 1, before which the process dies."""

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or Meter()
        self.database = _database("")
        self.dies_in = 0
        self.database.isolation_level = None  # a statement is a transaction of its own, but within `transaction`

    def rows(self, sql: str, *values: Any) -> list[Row]:
        self._meter.statement(sql, values)
        return [dict(row) for row in self.database.execute(sql, values)]

    def write(self, sql: str, *values: Any) -> int:
        self._meter.statement(sql, values)
        self.dies_in -= 1
        if self.dies_in == 0:
            raise Crash
        return self.database.execute(sql, values).rowcount

    def transaction(self, change: Callable[[], None]) -> None:
        self.database.execute("BEGIN")
        try:
            change()
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")


class Octets(Binding, dict[str, bytes]):
    """R2 and KV."""

    async def get(self, key: str) -> bytes | None:  # type: ignore[override]
        self.require()
        return dict.get(self, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes | None:
        self.require()
        data = dict.get(self, key)
        return None if data is None else data[start : start + length]

    async def put(self, key: str, value: bytes, life_s: int = 0) -> None:
        self.require()
        self[key] = value

    async def delete(self, key: str) -> None:
        self.pop(key, None)


class Queue:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.messages: list[Mapping[str, Any]] = []
        self.reachable = True

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        if not self.reachable:
            raise OSError("the queue is down")
        for message in messages:  # each alone: adapters/storage.py makes the batches
            self._meter.messages([json.dumps(json.dumps(message)).encode()])  # a string, that goes as JSON
        self.messages += messages

    async def waiting(self) -> int:
        return len(self.messages)


class MlDsa:
    """The Worker's face over the node's library."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return PROVIDER.verify(KR1, public_key, message, signature, context)

    async def sign(self, seed: bytes, message: bytes, context: bytes) -> bytes:
        return PROVIDER.signing_key(KR1, seed).sign(message, context)


class Sockets:
    """Nodes that are connected to one object: `connected[node]` takes each push and may answer it."""

    def __init__(self) -> None:
        self.connected: dict[str, Callable[[ToNode], None]] = {}
        self.closed: list[tuple[str, int, str]] = []

    def online(self) -> set[str]:
        return set(self.connected)

    def gateways(self) -> list[str]:
        return [node for node in self.connected if is_gateway(node)]

    def is_online(self, node: str) -> bool:
        return node in self.connected

    def send(self, node: str, text: str) -> bool:
        if node in self.connected:
            self.connected[node](parse_to_node_untrusted(text))
        return node in self.connected

    def close(self, node: str, code: int, reason: str) -> None:
        self.closed.append((node, code, reason))
        self.connected.pop(node, None)


class Shard(Binding):
    """An event shard with its sockets. While it is not reachable, calls fail, so many of them (`failures`)."""

    def __init__(self, home: EventHome, clock: Callable[[], float]) -> None:
        self.sockets = Sockets()
        self.service = EventShard(self.sockets, home, Limits(clock))
        self.failures = 0
        self.delivered: list[Delivery] = []

    def require(self) -> None:
        super().require()
        if self.failures:
            self.failures -= 1
            raise OSError("it is away")


@dataclass
class Shards:
    """Those of one tenant."""

    plane: ControlPlane
    tenant: str
    made: dict[int, Shard] = field(default_factory=dict)

    def __getitem__(self, shard: int) -> Shard:
        if shard not in self.made:
            self.made[shard] = Shard(Home(self.plane, self.tenant, shard), lambda: self.plane.now)
        return self.made[shard]

    async def deliver(self, shard: int, deliveries: Sequence[Delivery]) -> None:
        self[shard].require()
        self[shard].delivered += deliveries
        self[shard].service.deliver(deliveries)

    async def online(self, shard: int, nodes: Collection[str]) -> set[str]:
        self[shard].require()
        return set(self[shard].service.online(list(nodes)))


@dataclass
class Home:
    """The tenant's object, as one of its shards calls it."""

    plane: ControlPlane
    tenant: str
    shard: int

    async def welcome(self, node: str) -> str:
        service = self.plane.service(self.tenant)
        welcome = await service.node_events.welcome(node, self.shard)
        if service is not self.plane.service(self.tenant):
            raise problem("unavailable", "the object died with this call")
        for _ in range(self.plane.turns_on_the_way):
            await asyncio.sleep(0)
        return welcome

    async def received(self, node: str, text: str) -> bool:
        return self.plane.service(self.tenant).node_events.received(node, text)


class RelayWorker:
    def __init__(self) -> None:
        self.cuts: list[Cut] = []
        self.reachable = True

    async def cut(self, cut: Cut) -> bool:
        self.cuts.append(cut)
        return self.reachable


@dataclass
class Device:
    """A key and what it joins as."""

    role: str = "endpoint"
    key: SigningKey = field(default_factory=lambda: PROVIDER.signing_key(KR1, os.urandom(32)))

    @property
    def node(self) -> str:
        return node_id(self.role, self.key.public_key)


@dataclass(frozen=True)
class Token:
    record: TokenRecord
    secret: bytes


class ControlPlane:
    """One fabric. `services` are its Tenant objects; `restart` is what an eviction or a crash leaves of them."""

    def __init__(self, shards: int = 0) -> None:
        """shards: databases besides the one that is the directory."""
        self.now = START
        self.admin_token = ADMIN_TOKEN
        self.root_seed, self.policy_seed = os.urandom(32), os.urandom(32)
        root = parse_certificate_untrusted(make_root(PROVIDER, KR1, DOMAIN, self.root_seed, int(START), os.urandom))
        settings = Settings(
            suite=KR1,
            trust_domain=DOMAIN,
            relay_url="https://relay.test",
            root=root,
            issuer=self._issuer(root),
            policy_key=PROVIDER.signing_key(KR1, self.policy_seed).public_key,
            admin_token_hash=hashlib.sha256(ADMIN_TOKEN.encode()).hexdigest(),
            internal_key=INTERNAL_KEY,
            introspection_keys=(INTERNAL_KEY,),
            cut_key="the relay's key",
        )
        self.meter = Meter(clock=lambda: self.now)
        names = [DIRECTORY, *(f"{DIRECTORY}_{number}" for number in range(1, shards + 1))]
        self.databases = SqliteDatabases(names, self.meter)
        self.store, self.cache, self.blobs = self.databases.directory, Octets(), Octets()
        self.telemetry, self.sweeps = Queue(self.meter), Queue(self.meter)
        self.platform = Platform(
            settings,
            self.databases,
            self.cache,
            self.blobs,
            self.telemetry,
            self.sweeps,
            MlDsa(),
            lambda: self.now,
            os.urandom,
        )
        self.relay = RelayWorker()
        self.sockets: dict[str, Sockets] = {}
        self.shards: dict[str, Shards] = {}
        self.turns_on_the_way = 0  # of the loop, that an answer of a tenant's object takes
        self._background: list[Coroutine[Any, Any, None]] = []  # begins with the next loop
        self._tasks = set[asyncio.Task[None]]()
        self.alarms: dict[str, float] = {}
        self.limits = Limits(lambda: self.now)
        self._checked = False  # that the database has the schema
        self.objects: dict[str, SqliteLocal] = {}
        self._services: dict[str, TenantServices] = {}

    def close(self) -> None:
        """Fails if anything was asked of the platform that Cloudflare refuses."""
        for database in (
            *(each.database for each in self.databases.by_name.values()),
            *(local.database for local in self.objects.values()),
        ):
            database.close()
        assert not self.meter.breaches, self.meter.breaches

    def service(self, name: str) -> TenantServices:
        if name not in self._services:
            shared = {each: getattr(self.platform, each) for each in self.platform.__slots__}
            if name not in self.objects:
                self.objects[name] = SqliteLocal(self.meter)
            object_schema.migrate(self.objects[name])
            sockets = self.sockets.setdefault(name, Sockets())
            self._services[name] = TenantServices(
                TenantPlatform(
                    **shared,
                    tenant=name,
                    local=self.objects[name],
                    sockets=sockets,
                    event_shards=self.shards.setdefault(name, Shards(self, name)),
                    relay=self.relay,
                    wake=self._alarms(name),
                    background=self._in_background,
                )
            )
        return self._services[name]

    def local(self, name: str) -> SqliteLocal:
        """The SQLite of that tenant's object."""
        self.service(name)
        return self.objects[name]

    def _alarms(self, name: str) -> Callable[[float], Awaitable[None]]:
        async def wake(at: float) -> None:
            self.alarms[name] = at

        return wake

    def renew_issuer(self) -> None:
        """What `kairos fabric renew` and a deployment do."""
        settings = self.platform.settings
        self.platform.settings = replace(settings, issuer=self._issuer(settings.root))
        self._services.clear()

    def _issuer(self, root: Certificate) -> Issuer:
        seed = os.urandom(32)
        issuer = make_issuer(PROVIDER, root, self.root_seed, seed, DOMAIN, int(self.now), os.urandom)
        return Issuer(parse_certificate_untrusted(issuer), seed)

    def restart(self) -> None:
        """What was only in memory is gone."""
        self._services.clear()
        for task in self._tasks:
            task.cancel()
        for work in self._background:
            work.close()
        self._background.clear()
        self._checked = False

    def send(self, call: Call) -> Reply:
        """By the way that the Worker's entrypoint takes."""
        self.store.queries = self.store.steps = 0
        return asyncio.run(self.answer(call))

    async def answer(self, call: Call) -> Reply:
        """As `send`, in a loop of the caller's."""
        self.meter.begin(f"{call.method} {call.path}")
        try:
            return await self._answer(call)
        finally:
            self.meter.place = ""
            await self.settle()

    async def settle(self) -> None:
        """Does the work that no call waits for."""
        for work in self._background:
            self._in_background(work)
        self._background.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            self._background.append(work)
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: Call) -> Reply:
        name = app.tenant_of(call.path)
        fabric = FabricServices(self.platform, self.limits)
        try:
            limit_source(fabric, call)
            if not self._checked:
                for each, database in self.databases.by_name.items():
                    await database_schema.require(database, each)
                self._checked = True
            if not name:
                return await app.answer(fabric, *arrived(call))
            if name in self._services or await fabric.store.tenants.exists(name):
                return await app.answer_tenant(self.service(name), *arrived(call))
        except ProblemError as error:
            return problem_reply(error, call.path)
        return await app.answer_stranger(fabric, *arrived(call))

    def admin(self, method: str, path: str, body: object = None, type_: Any = Any, token: str | None = None) -> Any:
        """As an administrator, root unless another's credential is given. Raises ProblemError."""
        token = self.admin_token if token is None else token
        data = b"" if body is None else msgspec.json.encode(body)
        return answer(self.send(Call(method, path, {"authorization": f"Bearer {token}"}, data)), type_)

    def signed(self, device: Device, method: str, target: str, body: object = None, **change: Any) -> Call:
        """A request of an enrolled node, or E1. change: node, key, at (a clock that is wrong)."""
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        timestamp, nonce = int(change.get("at", self.now)), os.urandom(16)
        key = change.get("key", device.key)
        signature = key.sign(transcript.signed_request(method, target, timestamp, nonce, data), labels.REQUEST)
        headers = {SIGNATURE_HEADER.lower(): str(Proof(timestamp, nonce, signature))}
        if not target.endswith("/enrollments"):
            headers[DEVICE_HEADER.lower()] = change.get("node", device.node)
        return Call(method, target, headers, data)

    def node(self, device: Device, method: str, path: str, body: object = None, type_: Any = Any, **change: Any) -> Any:
        """As that node, of tenant acme. Raises ProblemError."""
        return answer(self.send(self.signed(device, method, f"/v1/tenants/acme{path}", body, **change)), type_)

    def token(self, role: str = "endpoint", name: str = "acme", **fields: Any) -> Token:
        secret = os.urandom(32)
        wanted = TokenCreate(role, transcript.fingerprint(secret), **{"vnis": ["office"], **fields})  # type: ignore[arg-type]
        return Token(self.admin("POST", f"/v1/tenants/{name}/tokens", wanted, TokenRecord), secret)

    def request(self, device: Device, token: Token) -> EnrollRequest:
        return EnrollRequest(
            "KR1", device.role, token.record.token_id, token.secret, device.key.public_key, "laptop"  # type: ignore[arg-type]
        )  # fmt: skip

    def ask(self, device: Device, token: Token, name: str = "acme") -> tuple[Call, Reply]:
        """E1 and what came of it."""
        call = self.signed(device, "POST", f"/v1/tenants/{name}/enrollments", self.request(device, token))
        return call, self.send(call)

    def respond(self, device: Device, call: Call, asked: Reply, key: SigningKey | None = None) -> Reply:
        """E4."""
        challenge = answer(asked, Challenge)
        signed = transcript.enrollment(call.body, asked.body)
        response = ChallengeResponse((key or device.key).sign(signed, labels.ENROLL_RESPONSE))
        path = f"/v1/tenants/acme/enrollments/{challenge.enrollment}/response"
        return self.send(Call("POST", path, {}, msgspec.json.encode(response)))

    def enroll(self, device: Device, token: Token) -> Enrollment:
        """E1 to E6, or to E5. Raises ProblemError."""
        call, asked = self.ask(device, token)
        return answer(self.respond(device, call, asked), Enrollment)

    def joined(self, role: str = "endpoint", **fields: Any) -> Device:
        """A device that is in; a gateway is approved, and connected from then on."""
        device = Device(role)
        if self.enroll(device, self.token(role, **fields)).status == "held":
            self.admin("POST", f"/v1/tenants/acme/devices/{device.node}/approve", {})
        if role == "gateway":
            self.connect(device)
        return device

    def connect(self, gateway: Device, outcome: str = "allow", key: SigningKey | None = None) -> list[ToNode]:
        """The gateway holds its events socket open and judges so. Returns the pushes that it gets."""
        pushes: list[ToNode] = []

        def pushed(push: ToNode) -> None:
            pushes.append(push)
            if isinstance(push, AdmissionRequest) and outcome:
                signed = transcript.admission_verdict(push.id, push.input.encode(), outcome, "test:judge", "why not")
                signature = (key or gateway.key).sign(signed, labels.ADMISSION_VERDICT)
                verdict = AdmissionVerdict(push.id, outcome, "test:judge", "why not", signature)  # type: ignore[arg-type]
                service = self.service("acme")
                asyncio.get_running_loop().call_soon(service.node_events.received, gateway.node, encode(verdict))

        self.sockets.setdefault("acme", Sockets()).connected[gateway.node] = pushed
        return pushes

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that is written down, but for nonces and audit events on their way: a request that was refused is still a
        request that was made."""
        d1 = [each.database for each in self.databases.by_name.values()]
        databases = [*d1, *(local.database for local in self.objects.values())]
        return {
            f"{number}.{table}": sorted(tuple(row) for row in database.execute(f"SELECT * FROM {table}"))
            for number, database in enumerate(databases)
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if table not in _PASSING
        }

    def events(self, name: str = "acme") -> list[Event]:
        """The whole log of a tenant, oldest first, with the fabric's own events that its object has not copied yet before the rest."""
        service = self.service(name)

        async def read() -> list[Event]:
            await service.fabric_inbox.copy()
            found, before = list[Event](), 1 << 49
            while before:
                page = await service.audit_search.find(AuditQuery(), before, 1000)
                found += [event for _, event in page.events]
                before = page.next
            return found[::-1]

        return asyncio.run(read())

    def audited(self, kind: str, name: str = "acme") -> list[Mapping[str, Any]]:
        return [msgspec.to_builtins(event) for event in self.events(name) if event.kind == kind]

    async def append(self, tenant: str, events: Sequence[Event]) -> None:
        await self.service(tenant).audit_log.append(events)

    def seal(self, name: str = "acme") -> None:
        async def run() -> None:
            service = self.service(name)
            await service.fabric_inbox.copy()
            while not await service.audit_log.seal():
                pass

        asyncio.run(run())

    def sweep(self, name: str = "acme") -> Reply:
        """What the cron asks of a tenant's object."""
        return self.send(Call("POST", f"/internal/sweep/{name}", {"authorization": f"Bearer {INTERNAL_KEY}"}))


def arrived(call: Call) -> tuple[Call, app.ReadBody]:
    """The call as the Worker gets it: its body is declared, and read later."""
    headers = {"content-length": str(len(call.body)), **call.headers} if call.method != "GET" else call.headers

    async def read(limit: int) -> bytes:
        if len(call.body) > limit:
            raise problem("body-too-large", "the body is longer than its Content-Length")
        return call.body

    return Call(call.method, call.target, headers), read


def answer(reply: Reply, type_: type[_T]) -> _T:
    """What it says. Raises ProblemError, having checked that an error has the one shape of errors."""
    if reply.status < 400:
        return msgspec.json.decode(reply.body or b"null", type=type_)
    assert reply.content_type == CONTENT_TYPE
    said = msgspec.json.decode(reply.body, type=Problem)
    assert said.status == reply.status
    assert said.detail
    raise ProblemError(said.code, said.status, said.title, said.detail, said.retry_after_s)


def _database(schema: str) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA foreign_keys = ON")
    database.executescript(schema)
    return database
