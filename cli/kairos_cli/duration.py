"""How people write a stretch of time: `90s`, `30m`, `24h`, `7d`."""

from __future__ import annotations

import re

from kairos.errors import KairosError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(option: str, text: str) -> int:
    """Raises KairosError, which names the option."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None or int(match[1]) == 0:
        raise KairosError(f"{option} {text}: write a number and s, m, h or d, as in 90s, 30m, 1h, 7d")
    return int(match[1]) * _UNITS[match[2]]
