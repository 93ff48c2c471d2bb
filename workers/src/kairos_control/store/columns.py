"""How values stand in columns: octets as base64 text, because D1 hands BLOBs to Python as arrays of numbers; lists
as JSON."""

from __future__ import annotations

import base64
import json


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text)


def strings(text: str) -> list[str]:
    """A JSON list of strings."""
    value: list[str] = json.loads(text)
    return value
