"""E6: certificates of nodes, signed by the issuing CA whose seed is a secret of the Worker; and which of them are refused before
their time. That list is bounded by itself: an entry ends with its certificate, and a device gets few of them a day."""

from __future__ import annotations

from kairos.api.admin import CertificateRecord, Reason
from kairos.api.push import CertificateRefusal
from kairos.constants import CERTIFICATE_LIFE_S, CERTIFICATE_REPLACED_GRACE_S, CLOCK_SKEW_S
from kairos.identity.certificate import (
    SERIAL_BYTES,
    Certificate,
    certificate,
    node_to_be_signed,
    parse_certificate_untrusted,
)
from kairos.identity.spiffe import SpiffeId, is_gateway

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Platform, Row, Statement, TenantPlatform
from ..problems import problem
from ..store.records import b64
from .journal import Journal
from .pushes import Pushes

_NO_CONTEXT = b""  # RFC 9881 §3
_STATE = (
    "SELECT c.*, r.refused_from, r.reason FROM certificates c LEFT JOIN refused_certificates r ON r.serial = c.serial"
)
_REFUSED = _STATE.replace("LEFT JOIN", "JOIN") + " WHERE c.tenant = ? AND c.not_after > ?"
_REFUSE = (
    "INSERT INTO refused_certificates (serial, refused_from, reason) {} ON CONFLICT (serial) DO UPDATE SET"
    " refused_from = excluded.refused_from, reason = excluded.reason WHERE excluded.refused_from < refused_from"
)


async def issue(platform: Platform, tenant: str, role: str, node: str, public_key: bytes) -> Certificate:
    """A certificate that starts a clock skew ago and ends in 24 h, or with the issuer."""
    settings = platform.settings
    now = int(platform.clock())
    tbs = node_to_be_signed(
        settings.suite,
        SpiffeId(settings.trust_domain, tenant, role, node),
        public_key,
        settings.issuer,
        platform.entropy(SERIAL_BYTES),
        now - CLOCK_SKEW_S,
        min(now + CERTIFICATE_LIFE_S, settings.issuer.not_after),
    )
    signature = await platform.signatures.sign(settings.issuer_seed, tbs, _NO_CONTEXT)
    return parse_certificate_untrusted(certificate(settings.suite, tbs, signature))


def record_of(tenant: str, node: str, issued: Certificate) -> Statement:
    """The row that remembers it."""
    return (
        "INSERT INTO certificates (serial, tenant, node, der, not_before, not_after) VALUES (?, ?, ?, ?, ?, ?)",
        (issued.serial, tenant, node, b64(issued.der), issued.not_before, issued.not_after),
    )


class Certificates:
    def __init__(self, platform: TenantPlatform, journal: Journal, pushes: Pushes) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes

    async def listing(self, call: Call) -> Reply:
        """Those that have not ended; `?node=` of one node."""
        view, node = window(call), call.query.get("node", "")
        rows = await self._platform.database.rows(
            _STATE + " WHERE c.tenant = ?1 AND c.serial > ?2 AND c.not_after > ?3 AND ?4 IN ('', c.node)"
            " ORDER BY c.serial LIMIT ?5",
            self._platform.tenant, view.after, int(self._platform.clock()), node, view.fetch,
        )  # fmt: skip
        return view.page_of_rows(rows, "serial", _record)

    async def revoke(self, call: Call) -> Reply:
        """Nobody believes it from now on. A node whose present one it is hears of it and rotates its key."""
        serial, reason, now = call.parameters["serial"], call.decode(Reason).reason, int(self._platform.clock())
        row = await self._platform.database.first(
            _STATE + " WHERE c.tenant = ? AND c.serial = ? AND c.not_after > ?", self._platform.tenant, serial, now
        )
        if row is None:
            raise problem("not-found", f"there is no certificate {serial} that still holds")
        if row["refused_from"] is None or row["refused_from"] > now:
            row = {**row, "refused_from": now, "reason": reason}
            await self._platform.database.write([(_REFUSE.format("VALUES (?, ?, ?)"), (serial, now, reason))])
            self._journal.record(
                "certificate.revoked", actor=call.actor, subject=row["node"], reason=reason, serial=serial
            )
        self._pushes.about(row["node"], _refusal(row, now))
        return reply(_record(row))

    def replacement(self, node: str, by: Certificate) -> Statement:
        """With the key that `by` is for, what was issued for the keys before it goes, after a grace."""
        now = int(self._platform.clock())
        before = "SELECT serial, ?, 'the key was rotated' FROM certificates WHERE tenant = ? AND node = ? AND serial <> ? AND not_after > ?"
        values = (now + CERTIFICATE_REPLACED_GRACE_S, self._platform.tenant, node, by.serial, now)
        return _REFUSE.format(before), values

    async def tell_of(self, node: str) -> None:
        """Whoever meets the node hears which of its certificates are refused."""
        for refusal in await self.refused(node):
            self._pushes.about(node, refusal)

    async def refused(self, *nodes: str) -> list[CertificateRefusal]:
        """All that are; only those of `nodes` where some are named."""
        now = int(self._platform.clock())
        rows = await self._platform.database.rows(_REFUSED, self._platform.tenant, now)
        return [_refusal(row, now) for row in rows if not nodes or row["node"] in nodes]

    async def seen_by(self, node: str) -> list[CertificateRefusal]:
        """What the node has to know: a gateway of all, an endpoint of gateways and of its own."""
        refused = await self.refused()
        if is_gateway(node):
            return refused
        return [each for each in refused if each.node == node or is_gateway(each.node)]


def _refusal(row: Row, now: int) -> CertificateRefusal:
    return CertificateRefusal(row["serial"], row["node"], max(0, row["refused_from"] - now), row["not_after"])


def _record(row: Row) -> CertificateRecord:
    return CertificateRecord(
        row["serial"], row["node"], row["not_before"], row["not_after"], row["refused_from"] or 0, row["reason"]
    )
