"""The constants conform to docs/protocol.md, not to themselves."""

from __future__ import annotations

import re
from pathlib import Path

from kairos import constants
from kairos.wire import control, datagram

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def documented_constants() -> dict[str, int]:
    found: dict[str, int] = {}
    for names, values in re.findall(r"^\| ([A-Z_, ]+) \| ([0-9, ]+) \|$", PROTOCOL, re.MULTILINE):
        found |= dict(zip(names.split(", "), map(int, values.split(", ")), strict=True))
    return found


def test_every_documented_constant_has_its_value() -> None:
    table = documented_constants()
    assert len(table) == 21
    for name, value in table.items():
        home = constants if hasattr(constants, name) else datagram
        assert getattr(home, name) == value, name


def test_message_types_are_those_of_the_document() -> None:
    section = PROTOCOL.split("**Control messages**")[1].split("**Key schedule.**")[0]
    documented: dict[int, str] = {}
    for numbers, names in re.findall(r"^\| ([0-9, ]+) \| ([A-Za-z, ]+) \|", section, re.MULTILINE):
        documented |= dict(zip(map(int, numbers.split(", ")), names.split(", "), strict=True))
    assert documented == {number: kind.__name__ for number, kind in control.TYPES.items()}


def test_header_is_sixteen_bytes_and_trailer_eight() -> None:
    assert datagram.HEADER.size == 16
    assert datagram.TRAILER.size == 8
