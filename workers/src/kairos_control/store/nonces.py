"""The nonces of signed requests, each kept for as long as its time stamp is accepted."""

from __future__ import annotations

from kairos.constants import CLOCK_SKEW_S

from ..ports import LocalDatabase


class NonceStore:
    """The nonces of one tenant's signed requests."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def take(self, signer: str, nonce: str, signed_at: int, now: int) -> bool:
        """Records a request by its signer, nonce and time stamp (Unix seconds); False: it was recorded before.

        The row's end is computed from the time stamp, which the signature covers, so a repeated request has the same
        key. Requests from before schema 2 are in `nonces`.
        """
        key = f"{signer}:{nonce}"
        self._local.write("DELETE FROM requests_seen WHERE ends_at < ?", now)
        if self._local.rows("SELECT 1 FROM nonces WHERE nonce = ? AND expires_at >= ?", key, now):
            return False
        return bool(
            self._local.write(
                "INSERT INTO requests_seen (ends_at, nonce) VALUES (?, ?) ON CONFLICT DO NOTHING",
                signed_at + CLOCK_SKEW_S + 1,
                key,
            )
        )

    def delete_ended(self, now: int) -> None:
        self._local.write("DELETE FROM requests_seen WHERE ends_at < ?", now)
        self._local.write("DELETE FROM nonces WHERE expires_at < ?", now)

    def clear(self) -> None:
        self._local.write("DELETE FROM requests_seen")
        self._local.write("DELETE FROM nonces")
