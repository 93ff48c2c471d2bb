"""`?after=<cursor>&limit=<n>`, the same for every listing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kairos.api.admin import Page

from ..problems import problem
from .call import Call, Reply, reply

LIMIT, LIMIT_MAX = 100, 1000
_AFTER_MAX = 256  # characters; the longest cursor is a VNI, a prefix and a node
NEWEST = (1 << 49) - 1  # above every number in a listing; it has 15 digits, as many as a query may have


class Window(msgspec.Struct):
    """The part of a listing that is asked for. Listings with more parameters derive from it."""

    after: Annotated[str, Meta(max_length=_AFTER_MAX)] = ""
    """The cursor: the last item of the page before; empty for the first page."""
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT
    """How many items a page has at most."""

    @property
    def fetch(self) -> int:
        """How many records to read: one more than is shown tells whether there is a next page."""
        return self.limit + 1

    @property
    def before(self) -> int:
        """The cursor of a listing that is numbered and shows the newest first. Raises invalid."""
        if not self.after:
            return NEWEST
        if not (self.after.isascii() and self.after.isdecimal() and len(self.after) <= 15):
            raise problem("invalid", "after: the `next` of the page before")
        return int(self.after)

    def page(self, records: Sequence[Any], cursor: Callable[[Any], object], ahead: Sequence[Any] = ()) -> Reply:
        """The page of `records`, which are at most `fetch` in the order of their cursors. ahead: records that come
        before them."""
        shown = records[: self.limit]
        following = str(cursor(shown[-1])) if len(records) > self.limit else ""
        return reply(Page([*ahead, *shown], following))


def window(call: Call) -> Window:
    """Raises invalid."""
    return call.decode_query(Window)
