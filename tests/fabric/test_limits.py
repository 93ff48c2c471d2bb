"""Production's limits hold in the local host: a Worker that breaks one is refused as there, and the breach is reported with name and place. So is
every exception that nobody caught."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kairos_cli.fabric import workspace
from kairos_cli.fabric.cloudflare_limits import LimitError, Meter
from kairos_cli.fabric.faults import Fault, FaultLog
from kairos_cli.fabric.init import create
from kairos_cli.fabric.local import _node
from kairos_cli.fabric.plan import write_plan
from kairos_cli.fabric.steps import QUIET
from overlay import wait_for

# A Worker that does to its bindings what its path says.
BREACHES = """
import asyncio, json
from urllib.parse import urlsplit
from workers import DurableObject, Response, WorkerEntrypoint

async def failing():
    raise ValueError("in the background")

class Default(WorkerEntrypoint):
    async def fetch(self, request):
        what = urlsplit(request.url).path.strip("/")
        if what == "ready":
            return Response("ready")
        if what.startswith("object-"):
            return await self.env.TENANT.getByName("one").fetch(request)
        return await getattr(self, what.replace("-", "_"))()

    async def many_queries(self):
        for _ in range(1001):
            await self.env.DB.prepare("SELECT 1").all()

    async def batch_of_queries(self):
        await self.env.DB.batch([self.env.DB.prepare("SELECT ?").bind(1) for _ in range(1001)])

    async def parameters(self):
        await self.env.DB.prepare("SELECT 1").bind(*range(101)).all()

    async def statement(self):
        await self.env.DB.prepare("SELECT 1 /*" + "x" * 100_000 + "*/").all()

    async def value(self):
        await self.env.DB.prepare("SELECT ?").bind("\\u00e9" * 1_000_001).all()

    async def cache_twice(self):
        for _ in range(2):
            await self.env.CACHE.put("key", b"value", expirationTtl=60)

    async def message(self):
        await self.env.TELEMETRY.sendBatch([{"body": '"' * 64_000}])

    async def batch(self):
        await self.env.TELEMETRY.sendBatch([{"body": "x" * 90_000} for _ in range(3)])

    async def messages(self):
        await self.env.TELEMETRY.sendBatch([{"body": "x"} for _ in range(101)])

    async def well(self):
        for number in range(50):
            await self.env.DB.prepare("SELECT ?").bind(number).all()
        await self.env.TELEMETRY.sendBatch([{"body": "x"} for _ in range(100)])
        await self.env.CACHE.put("other", b"value", expirationTtl=60)
        return Response("well")

    async def background(self):
        from pyodide.ffi import create_proxy
        self.ctx.waitUntil(create_proxy(asyncio.ensure_future(failing())))
        return Response("begun")

    async def exception(self):
        raise ValueError("in a handler")

    async def queue(self, batch, env=None, ctx=None):
        for message in batch.messages:
            if message.body == "poison":
                raise ValueError("in the consumer")

    async def poison(self):
        await self.env.TELEMETRY.sendBatch([{"body": "poison"}])
        return Response("sent")


class Tenant(DurableObject):
    async def fetch(self, request):
        what = urlsplit(request.url).path.strip("/")
        sql = self.ctx.storage.sql
        if what == "object-parameters":
            sql.exec("SELECT 1 WHERE 1 IN (" + ",".join("?" * 101) + ")", *range(101))
        if what == "object-value":
            sql.exec("SELECT ?", "x" * 3_000_000).toArray()
        if what == "object-alarm":
            self.ctx.storage.setAlarm(1)
        return Response("done")

    async def alarm(self, info=None):
        await self.ctx.storage.deleteAlarm()
        raise ValueError("in the alarm")
"""

Ask = Callable[[str], int]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FaultLog]]:
    """The URL of such a Worker, bound as the control plane is, and its faults."""
    root, state = workspace.prepare(QUIET), tmp_path_factory.mktemp("state")
    operator = create(state / "fabric", "KR1", "kairos.test", "http://127.0.0.1:1", "http://127.0.0.1:2")
    path = write_plan(root, operator, "control", state, "127.0.0.1", 0)
    plan = json.loads(path.read_text())
    bundle = state / "bundle.zip"
    bundle.write_bytes(Path(plan["bundle"]).read_bytes())
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("breaches.py", BREACHES)
    path.write_text(json.dumps(plan | {"main": "breaches", "bundle": str(bundle), "snapshot": "", "crons": []}))
    with (
        (state / "control.log").open("wb") as log,
        subprocess.Popen(
            (*_node(), "serve.mjs", str(path)),
            cwd=root / "workers/local",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["ready"].rstrip("/"), FaultLog(state)
        finally:
            process.terminate()


def asked(url: str, what: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/{what}", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def fault_after(worker: tuple[str, FaultLog], what: str, wanted: Callable[[Fault], bool]) -> Fault:
    url, log = worker
    log.new()
    asked(url, what)
    found: list[Fault] = []

    def has_come() -> bool:
        found.extend(filter(wanted, log.new()))
        return bool(found)

    wait_for(f"a fault of {what}", has_come)
    return found[0]


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("many-queries", "D1_QUERIES"),
        ("batch-of-queries", "D1_QUERIES"),
        ("parameters", "SQL_PARAMETERS"),
        ("statement", "SQL_STATEMENT_BYTES"),
        ("value", "SQL_VALUE_BYTES"),
        ("cache-twice", "KV_WRITE_INTERVAL_MS"),
        ("message", "QUEUE_MESSAGE_BYTES"),
        ("batch", "QUEUE_BATCH_BYTES"),
        ("messages", "QUEUE_BATCH_MESSAGES"),
        ("object-parameters", "SQL_PARAMETERS"),
        ("object-value", "SQL_VALUE_BYTES"),
    ],
)
def test_a_breach_names_limit_and_place(worker: tuple[str, FaultLog], what: str, name: str) -> None:
    fault = fault_after(worker, what, lambda fault: fault.kind == "limit")
    assert fault.name == name
    assert fault.place.startswith(f"Default.fetch GET /{what}" if not what.startswith("object") else "Tenant storage")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("exception", "in a handler"),
        ("background", "in the background"),
        ("poison", "in the consumer"),
        ("object-alarm", "in the alarm"),
    ],
)
def test_an_exception_that_nobody_caught_is_reported(worker: tuple[str, FaultLog], what: str, text: str) -> None:
    fault = fault_after(worker, what, lambda fault: fault.kind == "exception" and text in fault.text)
    assert "Traceback" in fault.text


def test_what_is_within_the_limits_is_no_fault(worker: tuple[str, FaultLog]) -> None:
    url, log = worker
    log.new()
    assert asked(url, "well") == 200
    assert asked(url, "ready") == 200
    assert not [fault for fault in log.new() if "/well" in fault.place]


def queries(meter: Meter, count: int) -> None:
    for _ in range(count):
        meter.query("SELECT 1", ())


def test_a_meter_refuses_what_production_refuses() -> None:
    meter = Meter(clock=lambda: 5.0)
    meter.begin("GET /v1/tenants")
    meter.query("SELECT ?", ("x" * 2_000_000,))
    meter.messages([b"x" * 127_900] * 2)
    meter.cache_write("key", b"value")
    wrong_ones: tuple[Callable[[], None], ...] = (
        lambda: meter.query("SELECT ?", tuple(range(101))),
        lambda: meter.statement("x" * 100_001, ()),
        lambda: meter.statement("SELECT ?", ("é" * 1_000_001,)),
        lambda: meter.messages([b"x" * 127_901]),
        lambda: meter.messages([b"x" * 90_000] * 3),
        lambda: meter.cache_write("key", b"value"),
        lambda: queries(meter, 999),
    )
    for wrong in wrong_ones:
        with pytest.raises(LimitError, match="GET /v1/tenants"):
            wrong()
    assert [each.name for each in meter.breaches] == [
        "SQL_PARAMETERS", "SQL_STATEMENT_BYTES", "SQL_VALUE_BYTES", "QUEUE_MESSAGE_BYTES", "QUEUE_BATCH_BYTES",
        "KV_WRITE_INTERVAL_MS", "D1_QUERIES",
    ]  # fmt: skip
    assert meter.most_queries == 1_001
