"""Certificates of nodes (E6): they are issued, renewed, rotated to a new key, and refused before they expire.

The list of refused certificates is bounded: an entry ends with its certificate, and a device gets few certificates a
day.
"""

from __future__ import annotations

from dataclasses import replace

from kairos.api.admin import CertificateRecord
from kairos.api.enrollment import Certificate as Renewed
from kairos.api.enrollment import RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateNotice, CertificateRefusal
from kairos.constants import CERTIFICATE_LIFE_S, CERTIFICATE_REPLACED_GRACE_S, CLOCK_SKEW_S
from kairos.crypto import labels
from kairos.identity import transcript
from kairos.identity.certificate import (
    SERIAL_BYTES,
    Certificate,
    certificate,
    node_to_be_signed,
    parse_certificate_untrusted,
)
from kairos.identity.spiffe import SpiffeId, is_gateway

from ..ports import ConstraintError, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.devices import StoredDevice
from ..store.network_changes import change_of
from . import issuer
from .journal import Journal
from .network_changes import NetworkChanges
from .pushes import Pushes
from .rate_limits import CERTIFICATE, Limits

_NO_CONTEXT = b""  # RFC 9881 §3


class Certificates:
    """The certificates of one tenant's nodes."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        pushes: Pushes,
        network: NetworkChanges,
        limits: Limits,
    ) -> None:
        self._network = network
        self._platform = platform
        self._store = store
        self._journal = journal
        self._pushes = pushes
        self._limits = limits

    async def issue(self, role: str, node: str, public_key: bytes) -> Certificate:
        """A certificate that starts a clock skew ago and ends in 24 h, or with the issuer. Raises issuer-mismatch."""
        settings, now = self._platform.settings, int(self._platform.clock())
        tbs = node_to_be_signed(
            settings.suite,
            SpiffeId(settings.trust_domain, self._platform.tenant, role, node),
            public_key,
            settings.issuer.certificate,
            self._platform.entropy(SERIAL_BYTES),
            now - CLOCK_SKEW_S,
            min(now + CERTIFICATE_LIFE_S, settings.issuer.certificate.not_after),
        )
        signature = await issuer.sign(self._platform, tbs, _NO_CONTEXT)
        self._store.issuers.keep(settings.issuer.certificate)
        return parse_certificate_untrusted(certificate(settings.suite, tbs, signature))

    async def renew(self, device: StoredDevice, request: RenewRequest) -> Renewed:
        """A new certificate for the device's key, or for a new key that takes its place.

        Raises a ProblemError: bad-signature (the new key did not sign its rotation), exists (a device has or had the
        new key).
        """
        self._limits.take(CERTIFICATE, device.node)
        if request.new_public_key:
            return await self._rotate(device, request)
        issued = await self.issue(device.role, device.node, device.public_key)
        renewed = replace(device, serial=issued.serial, not_after=issued.not_after)
        await self._journal.write(
            [self._store.devices.certify(renewed), *self._store.certificates.add(issued)],
            "certificate.renewed",
            actor=device.node,
            subject=issued.serial,
        )
        return self._announce(issued)

    async def page(self, node: str, after: str, count: int) -> list[CertificateRecord]:
        """Those that have not ended, by serial. node: of one node; empty: of all."""
        return await self._store.certificates.page(node, int(self._platform.clock()), after, count)

    async def revoke(self, serial: str, reason: str, actor: str) -> CertificateRecord:
        """Has a certificate refused everywhere from now on. A node whose present certificate it is rotates its key.

        Raises not-found for one that does not exist or has ended.
        """
        now = int(self._platform.clock())
        record = await self._store.certificates.one(serial, now)
        if record is None:
            raise problem("not-found", f"there is no certificate {serial} that still holds")
        if not 0 < record.refused_from <= now:
            record.refused_from, record.reason = now, reason
            await self._journal.write(
                [self._store.certificates.refuse(serial, now, reason)],
                "certificate.revoked",
                actor=actor,
                subject=record.node,
                reason=reason,
                serial=serial,
            )
        self._pushes.about(record.node, _refusal(record, now))
        return record

    async def seen_by(self, node: str) -> list[CertificateRefusal]:
        """The refused certificates that the node has to know: a gateway all, an endpoint those of gateways and its
        own."""
        now = int(self._platform.clock())
        refused = await self._store.certificates.refused(now)
        seen = (each for each in refused if is_gateway(node) or each.node == node or is_gateway(each.node))
        return [_refusal(each, now) for each in seen]

    async def _rotate(self, device: StoredDevice, request: RenewRequest) -> Renewed:
        """Replaces the device's key. Certificates of its former keys are refused after a grace period."""
        key, now = request.new_public_key, int(self._platform.clock())
        signed = transcript.rotation(device.node, device.public_key, key)
        if len(key) != self._platform.settings.suite.signature_public_key or not (
            await self._platform.signatures.verify(key, signed, request.new_key_signature, labels.ROTATE_KEY)
        ):
            raise problem("bad-signature", "the new key did not sign its rotation")
        if await self._store.devices.of_key(key) is not None:
            raise _taken()
        issued = await self.issue(device.role, device.node, key)
        rotated = replace(
            device,
            public_key=key,
            key_fingerprint=transcript.fingerprint(key),
            serial=issued.serial,
            not_after=issued.not_after,
        )
        store, change = self._store.certificates, change_of(members=[device.node])
        try:
            await self._journal.write(
                [
                    self._store.devices.rotate(rotated),
                    *store.add(issued),
                    store.refuse_others(issued, now + CERTIFICATE_REPLACED_GRACE_S, "the key was rotated", now),
                    *self._network.revision(change),
                ],
                "certificate.rotated",
                actor=device.node,
                subject=issued.serial,
            )
        except ConstraintError:
            raise _taken() from None
        renewed = self._announce(issued)
        for refused in await store.refused(now, device.node):
            self._pushes.about(device.node, _refusal(refused, now))
        await self._network.announce(change)  # members are known by their keys; a mere renewal is no news to them
        return renewed

    def _announce(self, issued: Certificate) -> Renewed:
        """Pushes the certificate to the gateways."""
        assert issued.spiffe is not None, "a node's certificate has a name"
        node = issued.spiffe.node
        self._pushes.to_gateways(CertificateNotice(node, issued.serial, issued.der))
        return Renewed(node, issued.serial, issued.der, issued.not_after)


def _taken() -> ProblemError:
    return problem("exists", "another device of the tenant has or had this key; make a new one")


def _refusal(record: CertificateRecord, now: int) -> CertificateRefusal:
    return CertificateRefusal(record.serial, record.node, max(0, record.refused_from - now), record.not_after)
