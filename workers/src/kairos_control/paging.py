"""`?after=<cursor>&limit=<n>`, the same for every listing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kairos.api.admin import Page

from .http import Call, Reply, reply
from .ports import Row
from .problems import problem

LIMIT, LIMIT_MAX = 100, 1000
_NEWEST = 1 << 50  # above every number, and still one that D1 takes


@dataclass(frozen=True, slots=True)
class Window:
    """after: the last item of the page before, empty for the first page."""

    after: str
    limit: int

    @property
    def fetch(self) -> int:
        """One more than is shown tells whether there is a next page."""
        return self.limit + 1

    @property
    def before(self) -> int:
        """For listings that are numbered and show the newest first. Raises invalid."""
        if self.after and not self.after.isdecimal():
            raise problem("invalid", "after: the `next` of the page before")
        return int(self.after or _NEWEST)

    def page(self, rows: Sequence[Row], key: str, record: Callable[[Row], Any], ahead: Sequence[Any] = ()) -> Reply:
        """rows: what a query with LIMIT `fetch` found after `after`, in the order of column `key`. ahead: goes first."""
        shown = rows[: self.limit]
        following = str(shown[-1][key]) if len(rows) > self.limit else ""
        return reply(Page([*ahead, *map(record, shown)], following))


def window(call: Call) -> Window:
    """Raises invalid."""
    query = call.query
    limit = query.get("limit", str(LIMIT))
    if not limit.isdecimal() or not 1 <= int(limit) <= LIMIT_MAX:
        raise problem("invalid", f"limit: 1 to {LIMIT_MAX}")
    return Window(query.get("after", ""), int(limit))
