"""Join tokens: what a node must hold to enroll, and what it gets with it."""

from __future__ import annotations

from kairos.api.admin import TokenCreate, TokenRecord

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from .journal import Journal

_HASH_BYTES = 32
_ID_BYTES = 8
_LIFE_MAX_S = 366 * 86_400


class Tokens:
    """The join tokens of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, journal: Journal) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal

    async def create(self, wanted: TokenCreate, actor: str) -> TokenRecord:
        """Raises invalid, and not-found for a VNI that does not exist."""
        if len(wanted.secret_hash) != _HASH_BYTES or wanted.uses < 1 or not 1 <= wanted.life_s <= _LIFE_MAX_S:
            raise problem("invalid", "secret_hash: 32 bytes; uses: at least 1; life_s: 1 second to 366 days")
        if unknown := await self._store.tokens.unknown_vnis(wanted.vnis):
            raise problem("not-found", f"there is no VNI {unknown[0]}")
        now = int(self._platform.clock())
        record = TokenRecord(
            self._platform.entropy(_ID_BYTES).hex(),
            self._platform.tenant,
            wanted.role,
            wanted.uses,
            0,
            now + wanted.life_s,
            wanted.vnis,
            wanted.tags,
            wanted.groups,
            wanted.owner,
            wanted.label,
        )
        await self._journal.write(
            [self._store.tokens.add(record, wanted.secret_hash, now)],
            "token.created",
            actor=actor,
            subject=record.token_id,
            role=wanted.role,
            uses=wanted.uses,
        )
        return record

    async def page(self, after: str, count: int) -> list[TokenRecord]:
        """By id."""
        return await self._store.tokens.page(after, count)

    async def one(self, token_id: str) -> TokenRecord:
        """Raises not-found."""
        record = await self._store.tokens.one(token_id)
        if record is None:
            raise problem("not-found", f"there is no join token {token_id}")
        return record

    async def delete(self, token_id: str, actor: str) -> None:
        """Nodes that joined with it stay. Raises not-found."""
        record = await self.one(token_id)
        await self._journal.write(
            [self._store.tokens.remove(record.token_id)], "token.deleted", actor=actor, subject=record.token_id
        )
