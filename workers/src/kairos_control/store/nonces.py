"""Nonces of signed requests, for as long as a request with the same time stamp would be taken."""

from __future__ import annotations

from ..ports import LocalDatabase


class NonceStore:
    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def take(self, nonce: str, now: int, expires_at: int) -> bool:
        """Records a nonce; False: it was recorded before. Nonces that ended before `now` are deleted."""
        self.delete_ended(now)
        return bool(
            self._local.write(
                "INSERT INTO nonces (nonce, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING", nonce, expires_at
            )
        )

    def delete_ended(self, now: int) -> None:
        self._local.write("DELETE FROM nonces WHERE expires_at < ?", now)

    def clear(self) -> None:
        self._local.write("DELETE FROM nonces")
