"""Signed policy bundles: the fabric keeps and announces them; it can neither make nor alter one."""

from __future__ import annotations

import hashlib

from kairos.api.admin import PolicyVersion
from kairos.api.push import PolicyAnnouncement
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.constants import BUNDLE_MAX
from kairos.crypto import labels
from kairos.identity import transcript

from .http import Call, Reply, reply
from .journal import Journal
from .paging import window
from .ports import ConstraintError, Row, TenantPlatform
from .problems import problem
from .pushes import Pushes
from .records import b64, unb64

_CACHED_S = 3600


class Policies:
    def __init__(self, platform: TenantPlatform, journal: Journal, pushes: Pushes) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes

    async def current(self) -> PolicyRecord | None:
        row = await self._platform.store.first(
            "SELECT * FROM policies WHERE tenant = ? ORDER BY version DESC LIMIT 1", self._platform.tenant
        )
        if row is None:
            return None
        return _record(row)

    async def show(self, call: Call) -> Reply:
        record = await self.current()
        if record is None:
            raise problem("not-found", "this tenant has no policy yet; kairos policy push")
        return reply(record)

    async def versions(self, call: Call) -> Reply:
        """The newest first; `after` is the version that the page before ended with."""
        view = window(call)
        rows = await self._platform.store.rows(
            "SELECT * FROM policies WHERE tenant = ? AND version < ? ORDER BY version DESC LIMIT ?",
            self._platform.tenant, view.before, view.fetch,
        )  # fmt: skip
        return view.page(rows, "version", lambda row: PolicyVersion(_record(row), row["created_at"]))

    async def bundle(self, call: Call) -> Reply:
        """The bytes of one version. They are named by their digest, and what the cache has of another digest is as good as nothing."""
        version = call.query.get("version", "")
        row = await self._platform.store.first(
            "SELECT sha384 FROM policies WHERE tenant = ? AND version = ?", self._platform.tenant, version
        )
        data = None
        if row is not None:
            key = _key(self._platform.tenant, row["sha384"])
            data = await self._platform.cache.get(key)
            if data is None or hashlib.sha384(data).hexdigest() != row["sha384"]:
                data = await self._platform.blobs.get(key)
                if data is not None:
                    await self._platform.cache.put(key, data, _CACHED_S)
        if data is None:
            raise problem("not-found", f"there is no bundle of version {version or '(none was named)'}")
        return reply(data)

    async def push(self, call: Call) -> Reply:
        upload = call.decode(PolicyUpload)
        record = upload.record
        digest = hashlib.sha384(upload.bundle).digest()
        if record.tenant != self._platform.tenant or record.sha384 != digest or len(upload.bundle) > BUNDLE_MAX:
            raise problem("invalid", "the record does not describe this bundle for this tenant")
        signed = transcript.policy_bundle(record.tenant, record.version, upload.bundle)
        key = self._platform.settings.policy_key
        if not await self._platform.signatures.verify(key, signed, record.signature, labels.POLICY_BUNDLE):
            raise problem("policy-unsigned", "sign it with the fabric's policy key: kairos policy push")
        held = await self.current()
        if held is not None and record.version <= held.version:
            raise problem("policy-stale", f"version {held.version} is in force; the next must be greater")
        await self._platform.blobs.put(_key(record.tenant, digest.hex()), upload.bundle)
        try:
            await self._platform.store.write(
                [
                    (
                        "INSERT INTO policies (tenant, version, sha384, signature, created_at) VALUES (?, ?, ?, ?, ?)",
                        (
                            record.tenant,
                            record.version,
                            digest.hex(),
                            b64(record.signature),
                            int(self._platform.clock()),
                        ),
                    )
                ]
            )
        except ConstraintError:
            raise problem("policy-stale", f"version {record.version} was pushed meanwhile") from None
        self._journal.record("policy.pushed", actor=call.actor, subject=str(record.version), sha384=digest.hex())
        self._pushes.to_all(PolicyAnnouncement(record))
        return reply(record)


def _record(row: Row) -> PolicyRecord:
    return PolicyRecord(row["tenant"], row["version"], bytes.fromhex(row["sha384"]), unb64(row["signature"]))


def _key(tenant: str, digest: str) -> str:
    return f"policy/{tenant}/{digest}"
