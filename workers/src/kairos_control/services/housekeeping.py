"""The housekeeping of the whole fabric: deletes rows that ended long ago. The audit log still has their events."""

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
    """The housekeeping of the records of all tenants."""

    def __init__(self, platform: Platform, store: FabricStores) -> None:
        self._platform, self._store = platform, store

    async def delete_ended(self) -> None:
        """Deletes certificates that have ended, and other records 30 days after their end."""
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
    """Runs all steps in order. One that fails is logged and does not stop the others. True: none failed."""
    failed = False
    for step, run in steps.items():
        try:
            await run()
        except Exception as error:  # any type: whatever a binding makes of an outage
            print(f"{name}, {step}: {type(error).__name__}: {error}")
            failed = True
    return not failed
