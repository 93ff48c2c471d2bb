"""Administrators: the root of `kairos fabric init`, and scoped credentials, each one role in one tenant or in all of
them.

The rows are read anew for every call, so a revoked credential is refused from the next call on.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from kairos.api.admin import ROLES, AdminCreate, AdminRecord
from kairos.errors import BadMessage
from kairos.identity.admin_credential import ID_BYTES, parse_admin_credential_untrusted
from kairos.identity.spiffe import is_name

from ..ports import Platform
from ..problems import problem
from ..store import FabricStores
from .journal import Journal

ROOT = "root"
_HASH_BYTES = 32
_LIFE_MAX_S = 366 * 86_400
_NO_HASH = bytes(_HASH_BYTES)
_RANK = {role: rank for rank, role in enumerate((*ROLES, ROOT))}  # a stronger role may do all that a weaker one may


@dataclass(frozen=True, slots=True)
class Administrator:
    """An authenticated administrator."""

    actor: str
    """As the audit names it."""
    role: str
    """One of ROLES, or ROOT."""
    tenant: str = ""
    """The only tenant it is for; empty: all."""
    expires_at: int = 0
    """Unix seconds; 0: never."""

    def require(self, role: str, tenant: str = "") -> None:
        """Raises out-of-scope unless it may act as `role` in `tenant` (empty: in the whole fabric)."""
        if tenant and self.tenant not in ("", tenant):
            raise problem("out-of-scope", f"this credential is for tenant {self.tenant} only")
        if _RANK[self.role] < _RANK[role]:
            raise problem("out-of-scope", f"this credential is of a {self.role}; its role would have to be {role}")


class Administrators:
    """The credentials of one tenant, or of the whole fabric."""

    def __init__(self, platform: Platform, store: FabricStores, journal: Journal, tenant: str = "") -> None:
        """tenant: whose credentials these are; empty: those that are for all tenants."""
        self._platform, self._store, self._journal, self._tenant = platform, store, journal, tenant

    async def authenticate(self, token: str) -> Administrator:
        """The administrator who holds `token`. Raises unauthorized."""
        known = await self._administrator(token)
        if known is None:
            raise problem("unauthorized", "this needs an admin credential: Authorization: Bearer <credential>")
        return known

    async def create(self, wanted: AdminCreate, maker: Administrator) -> AdminRecord:
        """A new credential. Its end is not later than that of its maker's credential. Raises invalid."""
        now = int(self._platform.clock())
        if len(wanted.secret_hash) != _HASH_BYTES or not is_name(wanted.name) or not 1 <= wanted.life_s <= _LIFE_MAX_S:
            raise problem("invalid", "secret_hash: 32 bytes; name: a DNS label; life_s: 1 second to 366 days")
        if maker.expires_at and now + wanted.life_s > maker.expires_at:
            raise problem(
                "invalid", f"life_s: your own credential ends in {maker.expires_at - now} s, this one no later"
            )
        record = AdminRecord(
            self._platform.entropy(ID_BYTES).hex(),
            wanted.name,
            wanted.role,
            self._tenant,
            now,
            maker.actor,
            now + wanted.life_s,
        )
        await self._journal.write(
            [self._store.admins.adding(record, wanted.secret_hash)],
            "admin.created",
            actor=maker.actor,
            subject=record.admin,
            name=wanted.name,
            role=wanted.role,
            expires_at=record.expires_at,
            all_tenants=not self._tenant,
        )
        return record

    async def page(self, after: str, count: int) -> list[AdminRecord]:
        return await self._store.admins.page(self._tenant, after, count)

    async def revoke(self, admin: str, actor: str) -> None:
        """Raises not-found."""
        held = await self._store.admins.one(admin)
        if held is None or held.record.tenant != self._tenant:
            raise problem("not-found", f"there is no admin credential {admin}")
        await self._journal.write(
            [self._store.admins.removing(admin)],
            "admin.revoked",
            actor=actor,
            subject=admin,
            name=held.record.name,
            role=held.record.role,
            all_tenants=not self._tenant,
        )

    async def _administrator(self, token: str) -> Administrator | None:
        shown, settings = hashlib.sha256(token.encode()).hexdigest(), self._platform.settings
        accepted = (settings.admin_token_hash, settings.previous_admin_token_hash)
        if any(hmac.compare_digest(shown, each) for each in accepted):
            return Administrator(ROOT, ROOT)
        try:
            credential = parse_admin_credential_untrusted(token)
        except BadMessage:
            return None
        held = await self._store.admins.one(credential.admin)
        same = hmac.compare_digest(
            hashlib.sha256(credential.secret).digest(), held.secret_hash if held is not None else _NO_HASH
        )
        if held is None or not same or held.record.expires_at <= self._platform.clock():
            return None
        record = held.record
        return Administrator(f"admin:{record.name}", record.role, record.tenant, record.expires_at)
