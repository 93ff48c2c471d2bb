"""The list of tenants."""

from __future__ import annotations

from kairos.api.admin import Tenant, TenantCreate
from kairos.identity.spiffe import is_name

from ..ports import ConstraintError, Platform
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
        tenant = Tenant(wanted.tenant, int(self._platform.clock()))
        journal = Journal(self._platform, wanted.tenant, FabricEvents(self._store, wanted.tenant))
        try:
            await journal.write(
                [self._store.tenants.adding(tenant)], "tenant.created", actor=actor, subject=wanted.tenant
            )
        except ConstraintError:
            raise problem("exists", f"there is a tenant {wanted.tenant}") from None
        return tenant

    async def page(self, after: str, count: int, only: str = "") -> list[Tenant]:
        """By name. only: the one tenant that the caller may see; empty: all."""
        return await self._store.tenants.page(after, count, only)
