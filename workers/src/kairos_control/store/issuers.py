"""The issuing certificates under which a tenant's object has signed, in its SQLite: what it signed outlives `kairos fabric renew`."""

from __future__ import annotations

from kairos.deployment import issuer_id
from kairos.identity.certificate import Certificate

from ..ports import LocalDatabase
from .columns import b64, unb64


class IssuerStore:
    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def keep(self, certificate: Certificate) -> str:
        """Keeps it for as long as the tenant is there; returns its id. Kept already, it costs one row read."""
        id_ = issuer_id(certificate.der)
        self._local.write(
            "INSERT INTO issuers (id, certificate, not_after) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            id_,
            b64(certificate.der),
            certificate.not_after,
        )
        return id_

    def one(self, id_: str) -> bytes | None:
        """DER."""
        rows = self._local.rows("SELECT certificate FROM issuers WHERE id = ?", id_)
        return unb64(rows[0]["certificate"]) if rows else None

    def valid(self, now: float) -> list[bytes]:
        """DER of those that have not ended, the newest first."""
        rows = self._local.rows("SELECT certificate FROM issuers WHERE not_after > ? ORDER BY not_after DESC", int(now))
        return [unb64(row["certificate"]) for row in rows]

    def clear(self) -> None:
        self._local.write("DELETE FROM issuers")
