"""What an event says about a change: both states where they are small, otherwise a digest of each and how they differ.

An event has at most 16 KiB (journal.py), and a VNI alone may have a thousand routes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

LISTED_MAX = 16
"""Items of a list that an event shows."""
VALUE_MAX = 1024
"""Bytes of JSON of any other value that an event shows."""
_encode = msgspec.json.Encoder(order="deterministic").encode


def change_details(before: object, after: object) -> dict[str, Any]:
    """The detail of an event: `before` and `after`, and `differences` for the lists that are too long to be shown in
    those two.

    A state is a struct of kairos.api, a list, or None where there is none. A difference says how many items were added
    and removed, and shows the first of them.
    """
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    detail: dict[str, Any] = {}
    if old is not None:
        detail["before"] = _shown(old)
    if new is not None:
        detail["after"] = _shown(new)
    differences = _differences(old, new)
    if differences:
        detail["differences"] = differences
    return detail


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _bounded(each) for name, each in value.items()}
    return _bounded(value)


def _bounded(value: object) -> object:
    """The value, or its SHA-256 as canonical JSON with its size."""
    text = _encode(value)
    if isinstance(value, list):
        if len(value) <= LISTED_MAX and len(text) <= LISTED_MAX * VALUE_MAX:
            return value
        return {"items": len(value), "sha256": hashlib.sha256(text).hexdigest()}
    return value if len(text) <= VALUE_MAX else {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def _differences(before: object, after: object) -> object:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        fields = {name: _differences(before.get(name, []), after.get(name, [])) for name in {**before, **after}}
        return {name: difference for name, difference in fields.items() if difference}
    if not isinstance(before, list) or not isinstance(after, list):
        return None
    if _bounded(before) == before and _bounded(after) == after:
        return None
    old, new = ({_encode(item): item for item in items} for items in (before, after))
    added, removed = (
        [_bounded(items[key]) for key in sorted(items.keys() - others.keys())]
        for items, others in ((new, old), (old, new))
    )
    return {
        "added": added[:LISTED_MAX],
        "added_items": len(added),
        "removed": removed[:LISTED_MAX],
        "removed_items": len(removed),
    }
