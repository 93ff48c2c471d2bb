"""What the cron does for the whole fabric: it deletes rows that ended long ago. The audit still holds what they said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from ..ports import Database, Platform
from ..store import FabricStores
from ..store.certificates import CertificateStore
from ..store.fabric_events import FabricEventStore
from ..store.tokens import TokenStore

_ENDED_KEPT_S = 30 * 86_400
_AT_ONCE = 5000  # events; the next sweep goes on


class Housekeeping:
    def __init__(self, platform: Platform, store: FabricStores) -> None:
        self._platform, self._store = platform, store

    async def delete_ended(self) -> None:
        """Certificates that have ended, and what else ended more than 30 days ago. A kind that cannot be deleted holds up no other."""
        now = int(self._platform.clock())
        before = now - _ENDED_KEPT_S
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "admins": lambda: self._store.write_directory([self._store.admins.remove_ended(before)]),
        }
        for name, database in self._store.each().items():
            steps[f"records of {name}"] = partial(self._delete_records, database, before, now)
            steps[f"fabric events of {name}"] = partial(FabricEventStore(database).delete_ended, before, _AT_ONCE)
        await run_each("housekeeping", steps)

    async def _delete_records(self, database: Database, before: int, now: int) -> None:
        """Those of a tenant that is being moved stay until it is there: what is copied does not change meanwhile."""
        moving = await self._store.placements.moving()
        await database.write([TokenStore.remove_ended(before, moving), CertificateStore.remove_ended(now, moving)])


async def run_each(name: str, steps: Mapping[str, Callable[[], Awaitable[object]]]) -> bool:
    """Runs all steps in order; one that fails is logged and holds up no other. True: none failed."""
    failed = False
    for step, run in steps.items():
        try:
            await run()
        except Exception as error:  # any type: whatever a binding makes of an outage
            print(f"{name}, {step}: {type(error).__name__}: {error}")
            failed = True
    return not failed
