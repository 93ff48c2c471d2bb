"""The list of tenants."""

from __future__ import annotations

from kairos.api.admin import Tenant, TenantCreate
from kairos.identity.spiffe import is_name

from ..ports import DIRECTORY, ConstraintError, Platform
from ..problems import problem
from ..store import FabricStores
from .journal import FabricEvents, Journal


class Tenants:
    """All tenants of the fabric."""

    def __init__(self, platform: Platform, store: FabricStores) -> None:
        self._platform, self._store = platform, store

    async def create(self, wanted: TenantCreate, actor: str) -> Tenant:
        """Raises invalid, exists."""
        if not is_name(wanted.tenant):
            raise problem("invalid", "a tenant is a DNS label: lower case letters, digits, inner hyphens, at most 63")
        if await self._store.tenants.exists(wanted.tenant):
            raise problem("exists", f"there is a tenant {wanted.tenant}")
        tenant = Tenant(wanted.tenant, int(self._platform.clock()), await self._shard(wanted))
        if tenant.shard != DIRECTORY:  # before the directory's row: a tenant that exists can have records
            await self._store.shard(tenant.shard).write([self._store.tenants.adding_copy(tenant)])
        journal = Journal(self._platform, wanted.tenant, FabricEvents(self._store, wanted.tenant))
        rows = [self._store.tenants.adding(tenant), self._store.placements.add(tenant.tenant, tenant.shard)]
        try:
            await journal.write(rows, "tenant.created", actor=actor, subject=wanted.tenant, database=tenant.shard)
        except ConstraintError:
            raise problem("exists", f"there is a tenant {wanted.tenant}") from None
        return tenant

    async def _shard(self, wanted: TenantCreate) -> str:
        """The database that is asked for, or that with the fewest tenants. The audit of a former tenant of this name is where that was,
        so the new one goes there. Raises invalid."""
        names = self._platform.databases.names
        if wanted.shard and wanted.shard not in names:
            raise problem("invalid", f"shard: one of {', '.join(names)}")
        placed = await self._store.placements.of(wanted.tenant)
        if placed is not None:
            if wanted.shard not in ("", placed.shard):
                raise problem(
                    "invalid", f"shard: the audit of the name is in {placed.shard}; move the tenant afterwards"
                )
            return placed.shard
        if wanted.shard or len(names) == 1:
            return wanted.shard or DIRECTORY
        counts = await self._store.placements.counts()
        return min(names, key=lambda name: counts.get(name, 0))

    async def page(self, after: str, count: int, only: str = "") -> list[Tenant]:
        """By name. only: the one tenant that the caller may see; empty: all."""
        return await self._store.tenants.page(after, count, only)
