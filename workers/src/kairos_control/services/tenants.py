"""The list of tenants."""

from __future__ import annotations

from kairos.api.admin import Tenant, TenantCreate
from kairos.identity.spiffe import is_name

from ..ports import ConstraintError, Platform
from ..problems import problem
from ..store.tenants import TenantStore
from .journal import Journal


class Tenants:
    """All tenants of the fabric."""

    def __init__(self, platform: Platform, store: TenantStore) -> None:
        self._platform, self._store = platform, store

    async def create(self, wanted: TenantCreate, actor: str) -> Tenant:
        """Raises invalid, exists."""
        if not is_name(wanted.tenant):
            raise problem("invalid", "a tenant is a DNS label: lower case letters, digits, inner hyphens, at most 63")
        tenant = Tenant(wanted.tenant, int(self._platform.clock()))
        try:
            await self._store.add(tenant)
        except ConstraintError:
            raise problem("exists", f"there is a tenant {wanted.tenant}") from None
        journal = Journal(self._platform, wanted.tenant)
        journal.record("tenant.created", actor=actor, subject=wanted.tenant)
        await journal.flush()
        return tenant

    async def page(self, after: str, count: int, only: str = "") -> list[Tenant]:
        """By name. only: the one tenant that the caller may see; empty: all."""
        return await self._store.page(after, count, only)
