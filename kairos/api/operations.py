"""What the fabric's operator is told of the fabric itself."""

from __future__ import annotations

import msgspec

from kairos.audit.event import Event


class Health(msgspec.Struct, omit_defaults=True):
    """That the fabric answers, and its database does."""

    status: str
    """`ok`: a fabric that is not answers with a problem."""
    database: str = ""
    """The newest migration of the database, a file's name; empty from a fabric before 0.2."""
    object: int = 0
    """The schema to which this code brings each tenant's object; 0 from a fabric before 0.2."""


class DeadLetter(msgspec.Struct):
    """A queue message that could not be handled."""

    seq: int
    """Its number; larger is newer."""
    queue: str
    """The queue it came from."""
    at: int
    """When it was put aside, Unix seconds."""
    reason: str
    """Why it could not be handled."""
    body: str
    """The message, at most its first 4096 characters."""


class FabricEventRecord(msgspec.Struct):
    """An audit event that is not of a single tenant."""

    seq: int
    """Its number; larger is newer."""
    event: Event
    count: int
    """How often it happened within the hour that `event.at` begins; 1 for an event that is recorded each time."""


class Swept(msgspec.Struct):
    """What a tenant's object says after its housekeeping."""

    complete: bool
    """All events that it took before are in R2 and in the index."""


class Reindexed(msgspec.Struct):
    """One step of making the index of a tenant's log again."""

    segments: int
    """How many segments this step read."""
    next: int
    """The `before` of the next step; 0: this was the last."""
