"""What the cron does for the whole fabric: it deletes rows that ended long ago. The audit still holds what they said."""

from __future__ import annotations

from ..ports import Platform
from ..store.certificates import CertificateStore
from ..store.tokens import TokenStore

_ENDED_KEPT_S = 30 * 86_400


class Housekeeping:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def delete_ended(self) -> None:
        """Certificates that have ended; credentials and join tokens that ended more than 30 days ago."""
        long_ago = int(self._platform.clock()) - _ENDED_KEPT_S
        await self._platform.database.write(
            [
                CertificateStore.remove_ended(int(self._platform.clock())),
                ("DELETE FROM admins WHERE expires_at < ?", (long_ago,)),
                TokenStore.remove_ended(long_ago),
            ]
        )
