"""The database that has the records of one tenant, wherever they are now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..ports import Database, Databases, Row, Statement
from ..problems import problem
from .placements import Placement, PlacementStore

_RETRY_S = 5


class TenantDatabase:
    """A Database for the stores of one tenant's object. The object alone moves its tenant, so it asks once where the records are.

    While they are copied to another database nothing is written: `write` raises moving.
    """

    def __init__(self, databases: Databases, tenant: str) -> None:
        self._databases, self._tenant = databases, tenant
        self._placements = PlacementStore(databases.directory)
        self._placement: Placement | None = None
        self._changes = 0
        self._writing = 0
        self._idle = asyncio.Event()

    async def placement(self) -> Placement:
        while (placement := self._placement) is None:
            changes = self._changes
            found = await self._placements.of(self._tenant) or Placement()
            if changes == self._changes:  # otherwise it may have been read before the change
                self._placement = found
        return placement

    async def changed(self) -> Placement:
        """The placement was changed in the directory. Returns it when no write from before is under way."""
        self._placement = None
        self._changes += 1
        placement = await self.placement()
        while self._writing:
            self._idle.clear()
            await self._idle.wait()
        return placement

    async def refuse_while_moving(self) -> None:
        """Raises moving."""
        placement = await self.placement()
        if placement.moving_to:
            raise problem("moving", f"the records are being moved to {placement.moving_to}; try again", _RETRY_S)

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        return await (await self._home()).rows(sql, *values)

    async def first(self, sql: str, *values: Any) -> Row | None:
        return await (await self._home()).first(sql, *values)

    async def write(self, statements: Sequence[Statement]) -> None:
        """All or none of them. Raises ConstraintError, moving."""
        await self.refuse_while_moving()
        home = await self._home()
        self._writing += 1  # nothing was awaited since the refusal that could have changed the placement
        try:
            await home.write(statements)
        finally:
            self._writing -= 1
            if not self._writing:
                self._idle.set()

    async def size(self) -> int:
        return await (await self._home()).size()

    async def _home(self) -> Database:
        return database_of(self._databases, (await self.placement()).shard)


def database_of(databases: Databases, shard: str) -> Database:
    """Raises schema-older: the Worker lacks the binding, which is a deployment that does not fit the data."""
    try:
        return databases.of(shard)
    except KeyError:
        raise problem(
            "schema-older", f"the Worker has no D1 binding {shard}, where records are: deploy it", 60
        ) from None
