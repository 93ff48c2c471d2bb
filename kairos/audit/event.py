"""One audit event, from whichever part of the fabric."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, omit_defaults=True):
    """id: 128-bit hex chosen by the source: source and id are the key of idempotence; at: Unix seconds by the source's clock, with
    fraction; source: `fabric` or a node; kind: `enrollment.issued`, `session.opened`, `flow.denied`, ...;
    subject: what it was done to."""

    id: str
    at: float
    tenant: str
    source: str
    kind: str
    actor: str = ""
    subject: str = ""
    outcome: str = ""
    rule: str = ""
    reason: str = ""
    suite: str = ""
    policy_version: int = 0
    detail: dict[str, Any] = {}


class EventBatch(msgspec.Struct):
    """What a node sends; at most 500 events."""

    events: list[Event]


class Accepted(msgspec.Struct):
    """How many the fabric took: they are in the tenant's log, some perhaps since an earlier time."""

    accepted: int
