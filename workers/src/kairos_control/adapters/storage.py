"""D1, a Durable Object's SQLite, KV, R2 and the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import js
import msgspec
from pyodide.ffi import JsException, to_js

from ..ports import DIRECTORY, ConstraintError, Row, Statement

_TTL_MIN_S = 60  # what KV takes
# What a queue takes: messages of 128 KB, in one call 100 of them and 256 KB, each with about 100 bytes of its own
# (https://developers.cloudflare.com/queues/platform/limits/).
_MESSAGE_BYTES, _BATCH_MESSAGES, _BATCH_BYTES = 127_000, 100, 240_000
_MESSAGE_OVERHEAD = 100


class D1Database:
    """The port Database over a D1 binding."""

    def __init__(self, database: Any) -> None:
        self._database = database

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        result = await self._prepare(sql, values).all()
        return [dict(row) for row in result.results]

    async def first(self, sql: str, *values: Any) -> Row | None:
        rows = await self.rows(sql, *values)
        return rows[0] if rows else None

    async def write(self, statements: Sequence[Statement]) -> None:
        if not statements:
            return
        try:
            await self._database.batch([self._prepare(sql, values) for sql, values in statements])
        except (JsException, Exception) as error:
            if "constraint" in str(error).lower():
                raise ConstraintError(str(error)) from None
            raise

    async def size(self) -> int:
        result = await self._database.prepare("SELECT 1").all()
        return int(result.meta.size_after)

    def _prepare(self, sql: str, values: Sequence[Any]) -> Any:
        statement = self._database.prepare(sql)
        return statement.bind(*values) if values else statement


class D1Databases:
    """Databases over the bindings DB, DB_1, DB_2 and so on, up to the first number that is not bound."""

    def __init__(self, env: Any) -> None:
        self._databases = {DIRECTORY: D1Database(env.DB)}
        while (binding := getattr(env, name := f"{DIRECTORY}_{len(self._databases)}", None)) is not None:
            self._databases[name] = D1Database(binding)

    @property
    def directory(self) -> D1Database:
        return self._databases[DIRECTORY]

    @property
    def names(self) -> Sequence[str]:
        return list(self._databases)

    def of(self, name: str) -> D1Database:
        return self._databases[name]


class ObjectDatabase:
    """LocalDatabase over ctx.storage."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._sql = storage.sql

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return [dict(row) for row in self._sql.exec(sql, *values).toArray()]

    def write(self, sql: str, *values: Any) -> int:
        cursor = self._sql.exec(sql, *values)
        cursor.toArray()
        return int(cursor.rowsWritten)

    def transaction(self, change: Callable[[], None]) -> None:
        self._storage.transactionSync(change)


class KvCache:
    """The port Cache over a KV namespace."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    async def get(self, key: str) -> bytes | None:
        value = await self._namespace.get(key, "arrayBuffer")
        return None if value is None else octets(value)

    async def put(self, key: str, value: bytes, life_s: int) -> None:
        """As well as it can: KV refuses the second write of a key within a second, and what it does not hold is fetched again."""
        try:
            await self._namespace.put(key, value, expirationTtl=max(life_s, _TTL_MIN_S))
        except Exception as error:  # any type: it depends on the bridge to JavaScript
            print(f"cache put {key}: {error}")


class R2Blobs:
    """The port Blobs over an R2 bucket."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    async def put(self, key: str, data: bytes) -> None:
        await self._bucket.put(key, data)

    async def get(self, key: str) -> bytes | None:
        found = await self._bucket.get(key)
        return None if found is None else octets(await found.arrayBuffer())

    async def get_range(self, key: str, start: int, length: int) -> bytes | None:
        wanted = to_js({"offset": start, "length": length}, dict_converter=js.Object.fromEntries)
        found = await self._bucket.get(key, range=wanted)
        return None if found is None else octets(await found.arrayBuffer())

    async def delete(self, key: str) -> None:
        await self._bucket.delete(key)


class Queue:
    """MessageQueue over a queue's binding. Messages are sent as text, so that their size on the wire is known."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raises ValueError, before anything is sent, for a message that no queue takes."""
        bodies = [msgspec.json.encode(message) for message in messages]
        if any(len(body) > _MESSAGE_BYTES for body in bodies):
            raise ValueError(f"a queue takes messages of at most {_MESSAGE_BYTES} bytes")
        batch: list[Any] = []
        size = 0
        for body in bodies:
            cost = len(body) + _MESSAGE_OVERHEAD
            if batch and (len(batch) == _BATCH_MESSAGES or size + cost > _BATCH_BYTES):
                await self._queue.sendBatch(to_js(batch))
                batch, size = [], 0
            message = {"body": body.decode(), "contentType": "text"}
            batch.append(to_js(message, dict_converter=js.Object.fromEntries))
            size += cost
        if batch:
            await self._queue.sendBatch(to_js(batch))

    async def waiting(self) -> int | None:
        try:
            return int((await self._queue.metrics()).backlogCount)
        except Exception:  # the runtime is older than this call, or the queue is away
            return None


def octets(value: Any) -> bytes:
    """The bytes of an ArrayBuffer, which the bridge hands over in one of two forms."""
    return bytes(value.to_bytes() if hasattr(value, "to_bytes") else value)
