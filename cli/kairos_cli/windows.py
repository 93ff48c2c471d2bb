"""Hours of the week at which a grant holds, as a person writes them and as the rules look at them."""

from __future__ import annotations

import re

import msgspec

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 24 * 60
WEEK = 7 * _DAY
_TIME = re.compile(r"(\d\d):(\d\d)")
_ZONE = re.compile(r"([+-])(\d\d):(\d\d)")


class Window(msgspec.Struct, forbid_unknown_fields=True, rename={"begins": "from", "ends": "to"}):
    """days: `mon`, `mon-fri`, none given: all; from, to: `09:00`, `24:00`; at or before `from` means on the next day;
    zone: `UTC` or an offset, `+02:00`: a zone with summer time would make nodes disagree."""

    days: list[str] = []
    begins: str = "00:00"
    ends: str = "24:00"
    zone: str = "UTC"


def minutes(window: Window) -> list[list[int]]:
    """[first, past the last] minute of the week in UTC, cut at the week's end. Raises ValueError."""
    begins, ends = _time(window.begins), _time(window.ends)
    length = ends - begins if ends > begins else ends + _DAY - begins
    found: list[list[int]] = []
    for day in _days(window.days):
        first = (day * _DAY + begins - _offset(window.zone)) % WEEK
        past = first + length
        found += [[first, min(past, WEEK)]] + ([[0, past - WEEK]] if past > WEEK else [])
    return sorted(found)


def _days(texts: list[str]) -> set[int]:
    found: set[int] = set()
    for text in texts or ["mon-sun"]:
        first, _, last = text.partition("-")
        try:
            begin, end = _DAYS.index(first), _DAYS.index(last or first)
        except ValueError:
            raise ValueError(f"{text!r} is no day: mon, tue, wed, thu, fri, sat, sun, or mon-fri") from None
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return found


def _time(text: str) -> int:
    match = _TIME.fullmatch(text)
    minute = int(match[1]) * 60 + int(match[2]) if match is not None and int(match[2]) < 60 else _DAY + 1
    if minute > _DAY:
        raise ValueError(f"{text!r} is no time of day: 00:00 to 24:00")
    return minute


def _offset(text: str) -> int:
    """Minutes ahead of UTC."""
    if text == "UTC":
        return 0
    match = _ZONE.fullmatch(text)
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        raise ValueError(f"{text!r} is no zone: UTC, or an offset as +02:00")
    offset = int(match[2]) * 60 + int(match[3])
    return offset if match[1] == "+" else -offset
