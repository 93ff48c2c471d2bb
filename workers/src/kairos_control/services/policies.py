"""Signed policy bundles: the fabric keeps and announces them; it can neither make nor alter one."""

from __future__ import annotations

import hashlib

from kairos.api.admin import PolicyVersion
from kairos.api.push import PolicyAnnouncement
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.constants import BUNDLE_MAX
from kairos.crypto import labels
from kairos.identity import transcript

from ..ports import ConstraintError, TenantPlatform
from ..problems import problem
from ..store import Stores
from .journal import Journal
from .pushes import Pushes

_CACHED_S = 3600


class Policies:
    """The policies of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, journal: Journal, pushes: Pushes) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._pushes = pushes

    async def current(self) -> PolicyRecord:
        """The policy in force. Raises not-found."""
        record = await self._store.policies.newest()
        if record is None:
            raise problem("not-found", "this tenant has no policy yet; kairos policy push")
        return record

    async def versions(self, before: int, count: int) -> list[PolicyVersion]:
        """Versions below `before`, the newest first."""
        return await self._store.policies.page(before, count)

    async def bundle(self, version: int) -> bytes:
        """The bytes of one version. Raises not-found.

        A bundle is looked up by its digest, and what the cache holds under another digest is ignored.
        """
        record = await self._store.policies.one(version)
        data = None if record is None else await self._bundle_of(record)
        if data is None:
            raise problem("not-found", f"there is no bundle of version {version}")
        return data

    async def push(self, upload: PolicyUpload, actor: str) -> PolicyRecord:
        """Puts a new version in force and announces it to every node.

        Raises a ProblemError: invalid (the record does not describe the bundle), policy-unsigned, policy-stale.
        """
        record = upload.record
        digest = hashlib.sha384(upload.bundle).digest()
        if record.tenant != self._platform.tenant or record.sha384 != digest or len(upload.bundle) > BUNDLE_MAX:
            raise problem("invalid", "the record does not describe this bundle for this tenant")
        signed = transcript.policy_bundle(record.tenant, record.version, upload.bundle)
        key = self._platform.settings.policy_key
        if not await self._platform.signatures.verify(key, signed, record.signature, labels.POLICY_BUNDLE):
            raise problem("policy-unsigned", "sign it with the fabric's policy key: kairos policy push")
        held = await self._store.policies.newest_version()
        if record.version <= held:
            raise problem("policy-stale", f"version {held} is in force; the next must be greater")
        await self._platform.blobs.put(_key(record), upload.bundle)
        try:
            await self._journal.write(
                [self._store.policies.adding(record, int(self._platform.clock()))],
                "policy.pushed",
                actor=actor,
                subject=str(record.version),
                sha384=digest.hex(),
            )
        except ConstraintError:
            raise problem("policy-stale", f"version {record.version} was pushed meanwhile") from None
        self._pushes.to_all(PolicyAnnouncement(record))
        return record

    async def _bundle_of(self, record: PolicyRecord) -> bytes | None:
        key = _key(record)
        data = await self._platform.cache.get(key)
        if data is not None and hashlib.sha384(data).digest() == record.sha384:
            return data
        data = await self._platform.blobs.get(key)
        if data is not None:
            await self._remember(key, data)
        return data

    async def _remember(self, key: str, data: bytes) -> None:
        """KV takes one write a second for a key, so while a rollout fills the cache most of these fail; the bundle is in hand all the same."""
        try:
            await self._platform.cache.put(key, data, _CACHED_S)
        except Exception as error:  # any type: the bridge decides what a refused write becomes
            print(f"policy: the cache did not take {key}: {error}")


def _key(record: PolicyRecord) -> str:
    return f"policy/{record.tenant}/{record.sha384.hex()}"
