"""Queue messages that could not be handled, for the operator to look at: the newest of them, cut to a length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kairos.api.operations import DeadLetter

from ..ports import Database
from .bulk import bulks, columns

KEPT = 1000
BODY_MAX = 4096
"""Characters of a body that are kept."""


class DeadLetterStore:
    """The dead letters of all queues."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, queue: str, reason: str, bodies: Iterable[str], at: int) -> None:
        """The oldest make room for them."""
        rows = ([queue, reason[:BODY_MAX], body[:BODY_MAX], at] for body in bodies)
        await self._database.write(
            [
                *(
                    (
                        f"INSERT INTO dead_letters (queue, reason, body, at) SELECT {columns(4)} FROM json_each(?)",
                        (bulk,),
                    )
                    for bulk in bulks(rows)
                ),
                ("DELETE FROM dead_letters WHERE seq <= (SELECT max(seq) FROM dead_letters) - ?", (KEPT,)),
            ]
        )

    async def page(self, before: int, count: int) -> list[DeadLetter]:
        """Those with a number below `before`, the newest first."""
        rows = await self._database.rows(
            "SELECT seq, queue, at, reason, body FROM dead_letters WHERE seq < ? ORDER BY seq DESC LIMIT ?",
            before, count,
        )  # fmt: skip
        return [DeadLetter(**row) for row in rows]

    async def counts(self) -> Sequence[tuple[str, int]]:
        """How many are kept, by queue."""
        rows = await self._database.rows(
            "SELECT queue, count(*) AS count FROM dead_letters GROUP BY queue ORDER BY queue"
        )
        return [(row["queue"], row["count"]) for row in rows]
