"""How many questions a call asks of D1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from control_plane import ControlPlane
from kairos_control.ports import Row, Statement


@dataclass
class Counted:
    """The count of one block."""

    queries: int = 0
    """Statements that read, and statements of batches, each of which Cloudflare counts as one."""
    at_entry: int = 0
    """Those of the Worker's entrypoint, which asks whether the schema and the tenant are there."""

    @property
    def of_tenant(self) -> int:
        """Those of the tenant's object."""
        return self.queries - self.at_entry


@contextmanager
def counted(plane: ControlPlane) -> Iterator[Counted]:
    """Counts what the calls of the block ask of D1."""
    count, database = Counted(), plane.store
    rows, write = database.rows, database.write

    async def counted_rows(sql: str, *values: Any) -> list[Row]:
        count.queries += 1
        count.at_entry += "d1_migrations" in sql
        return await rows(sql, *values)

    async def counted_write(statements: Sequence[Statement]) -> None:
        count.queries += len(statements)
        await write(statements)

    database.rows, database.write = counted_rows, counted_write  # type: ignore[method-assign]
    try:
        yield count
    finally:
        database.rows, database.write = rows, write  # type: ignore[method-assign]
