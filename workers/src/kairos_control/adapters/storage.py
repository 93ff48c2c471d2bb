"""D1, a Durable Object's SQLite, KV, R2 and the queue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyodide.ffi import JsException

from ..ports import ConstraintError, Row, Statement

_TTL_MIN_S = 60  # what KV takes
_BATCH_MESSAGES, _BATCH_BYTES = 100, 200_000  # what a queue takes in one call: 100, and 256 KB with its own overhead


class D1Store:
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

    def _prepare(self, sql: str, values: Sequence[Any]) -> Any:
        statement = self._database.prepare(sql)
        return statement.bind(*values) if values else statement


class ObjectStore:
    """LocalStore over ctx.storage.sql."""

    def __init__(self, sql: Any) -> None:
        self._sql = sql

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return [dict(row) for row in self._sql.exec(sql, *values).toArray()]

    def write(self, sql: str, *values: Any) -> int:
        cursor = self._sql.exec(sql, *values)
        cursor.toArray()
        return int(cursor.rowsWritten)


class KvCache:
    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    async def get(self, key: str) -> bytes | None:
        value = await self._namespace.get(key, "arrayBuffer")
        return None if value is None else octets(value)

    async def put(self, key: str, value: bytes, life_s: int) -> None:
        """As well as it can: KV refuses the second write of a key within a second, and what it does not hold is fetched again."""
        try:
            await self._namespace.put(key, value, expirationTtl=max(life_s, _TTL_MIN_S))
        except Exception as error:  # whatever the bridge makes of a refusal
            print(f"cache put {key}: {error}")


class R2Blobs:
    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    async def put(self, key: str, data: bytes) -> None:
        await self._bucket.put(key, data)

    async def get(self, key: str) -> bytes | None:
        found = await self._bucket.get(key)
        return None if found is None else octets(await found.arrayBuffer())

    async def delete(self, key: str) -> None:
        await self._bucket.delete(key)


class Queue:
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        batch: list[Mapping[str, str]] = []
        size = 0
        for message in messages:
            body = json.dumps(message)  # a string crosses the bridge at once, a document value by value
            if len(batch) == _BATCH_MESSAGES or size + len(body) > _BATCH_BYTES:
                await self._queue.sendBatch(batch)
                batch, size = [], 0
            batch.append({"body": body})
            size += len(body)
        if batch:
            await self._queue.sendBatch(batch)


def octets(value: Any) -> bytes:
    """bytes of whatever the bridge made of an ArrayBuffer."""
    return bytes(value.to_bytes() if hasattr(value, "to_bytes") else value)
