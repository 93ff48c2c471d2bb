"""Moving the records of a tenant to another database.

The tenant's object copies them, compares the copy with what it has, and only then says in the directory, by one statement, where they are.
Until that statement the old database is the truth and after it the new one; what counts no more is deleted. Between the first statement
and that one the records do not change: calls that would change them are answered with `moving`. Sessions, sockets and the log go on in the
object. Each step is bounded, and whatever dies between two statements, the next alarm or sweep goes on from what the databases say.
"""

from __future__ import annotations

import asyncio
from typing import Any

from kairos.api.admin import Tenant

from ..ports import DIRECTORY, ConstraintError, Database, Row, Statement, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.placements import Placement
from ..store.tables import same
from ..store.tenants import TenantStore
from .fabric_inbox import FabricInbox
from .journal import Journal
from .turn import Turn

PAGE = 200
"""Records that are read, written or deleted at once."""
_PAGES_AT_ONCE = 40
"""Of one step. With the questions about each table these are some 250 statements, of 1,000 that an invocation may make."""
_NAMED_MAX = 10  # VNI numbers in a refusal
_RETRY_S = 5


class Relocation:
    def __init__(
        self, platform: TenantPlatform, store: Stores, journal: Journal, inbox: FabricInbox, turn: Turn
    ) -> None:
        """journal: of changes of the directory."""
        self._platform, self._store, self._journal, self._inbox, self._turn = platform, store, journal, inbox, turn
        self._stepping = asyncio.Lock()
        self._copied = 0
        """So many tables, in the order of the store, need no look any more."""
        self._compared = 0
        """So many tables are the same in both databases, to the last record."""
        self._same_to: Row | None = None
        """And the next one is to this record; None: to none yet."""
        self._records = 0
        """In what was compared."""
        self._failure = ""
        """Why the last move was given up; empty: it was not."""

    async def begin(self, shard: str, actor: str) -> Tenant:
        """The records are moved to this database, a part of them at once. Asked again, it only says how far it is.

        Raises invalid, in-use, moving, not-found. in-use: another tenant of that database has a VNI of the same number.
        """
        if shard not in self._platform.databases.names:
            raise problem("invalid", f"shard: one of {', '.join(self._platform.databases.names)}")
        self._failure = ""
        async with self._turn:
            placement = await self._store.home.placement()
            if placement.moving_to not in ("", shard):
                raise problem("moving", f"the records are on their way to {placement.moving_to}; try again", _RETRY_S)
            if not placement.moving_to and placement.shard != shard:
                await self._depart(placement, shard, actor)
        await self.step()
        if self._failure:
            raise problem("in-use", f"the move was given up: {self._failure}")
        tenant = await self._store.tenants.one(self._platform.tenant)
        if tenant is None:
            raise problem("not-found", f"there is no tenant {self._platform.tenant}")
        return tenant

    async def refuse_unless_settled(self) -> None:
        """Raises moving."""
        placement = await self._store.home.placement()
        if placement.moving_to or placement.erasing:
            raise problem("moving", "a move of the tenant is not finished; try again", _RETRY_S)

    async def step(self) -> bool:
        """A part of the work that there is. True: none is left."""
        async with self._stepping:
            placement = await self._store.home.placement()
            if placement.moving_to:
                await self._copy_some(placement, self._store.shard(placement.moving_to))
                placement = await self._store.home.placement()
            if placement.erasing and not placement.moving_to and await self._erase_some(placement.erasing):
                await self._store.write_directory([self._store.placements.erased(self._platform.tenant)])
                placement = await self._store.home.changed()
            done = not (placement.moving_to or placement.erasing)
            if not done:
                await self._platform.wake(self._platform.clock())
            return done

    async def _depart(self, placement: Placement, shard: str, actor: str) -> None:
        """Raises in-use, moving."""
        if placement.erasing:
            raise problem("moving", f"records of the last move are deleted in {placement.erasing}; try again", _RETRY_S)
        taken = await self._store.vnis.taken_in(self._store.shard(shard))
        if taken:
            named = ", ".join(map(str, taken[:_NAMED_MAX])) + (" and more" if len(taken) > _NAMED_MAX else "")
            raise problem(
                "in-use", f"VNI numbers of other tenants in {shard}: {named}; make these VNIs under other numbers"
            )
        departure = self._store.placements.depart(self._platform.tenant, shard)
        await self._change(departure, "tenant.moving", placement.shard, shard, actor=actor)
        self._copied, self._compared, self._same_to, self._records = 0, 0, None, 0

    async def _copy_some(self, placement: Placement, target: Database) -> None:
        """Copies, then compares; with the last record the copy becomes the truth, or is given up where it differs."""
        source, tenant, left = self._store.shard(placement.shard), self._platform.tenant, _PAGES_AT_ONCE
        tables = self._store.tables
        try:
            if not self._copied:
                await self._copy_tenant(source, target)
            while self._copied < len(tables):
                table = tables[self._copied]
                records = await table.page(source, tenant, await table.last(target, tenant), PAGE)
                if not records:
                    self._copied += 1
                    continue
                await target.write(table.add(records))
                left -= 1
                if not left:
                    return
        except ConstraintError as error:
            await self._abandon(placement, f"a record could not be added: {error}")
            return
        while self._compared < len(tables):
            table = tables[self._compared]
            one, other = [await table.page(each, tenant, self._same_to, PAGE) for each in (source, target)]
            if not same(one, other):
                await self._abandon(placement, f"the copy of {table.name} differs")
                return
            self._same_to = one[-1] if one else None
            self._records += len(one)
            if one:
                left -= 1
            else:
                self._compared += 1
            if left <= 0:
                return
        while not await self._inbox.copy():  # what the old database has for the log
            pass
        arrival = self._store.placements.arrive(tenant)
        await self._change(arrival, "tenant.moved", placement.shard, placement.moving_to, records=self._records)

    async def _copy_tenant(self, source: Database, target: Database) -> None:
        """The row that the records refer to."""
        name, tenants = self._platform.tenant, self._store.tenants
        row, revision = await tenants.one(name), await TenantStore(source).revision(name)
        if row is not None:
            await target.write([tenants.adding_copy(row), tenants.set_revision(name, revision)])

    async def _abandon(self, placement: Placement, reason: str) -> None:
        self._failure = reason
        given_up = self._store.placements.abandon(self._platform.tenant)
        await self._change(given_up, "tenant.move-failed", placement.shard, placement.moving_to, reason=reason)

    async def _change(
        self,
        change: Statement,
        kind: str,
        source: str,
        target: str,
        *,
        actor: str = "fabric",
        reason: str = "",
        **detail: Any,
    ) -> None:
        """One statement of the directory, with its event."""
        name = self._platform.tenant
        await self._journal.write(
            [change], kind, actor=actor, subject=name, reason=reason, source=source, target=target, **detail
        )
        await self._store.home.changed()

    async def _erase_some(self, shard: str) -> bool:
        """What is not the truth. True: nothing is left of it."""
        database, tenant, left = self._store.shard(shard), self._platform.tenant, _PAGES_AT_ONCE
        for table in reversed(self._store.tables):
            while await table.any(database, tenant):
                if not left:
                    return False
                await database.write([table.remove_some(tenant, PAGE)])
                left -= 1
        if shard != DIRECTORY:
            await database.write([self._store.tenants.remove(tenant)])
        return True
