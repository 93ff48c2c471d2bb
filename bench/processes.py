"""What processes spend, out of /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP, _USER, _SYSTEM = 2, 11, 12  # fields behind the command's name (proc(5), counted from the state)


def members(group: int) -> list[int]:
    """The living processes of a process group. Looks at every process there is."""
    return [pid for pid, _ in _of_group(group)]


def cpu_seconds(group: int) -> float:
    """CPU time of all living processes of a process group, in steps of 10 ms. Looks at every process there is."""
    return sum(_cpu_seconds(fields) for _, fields in _of_group(group))


def process_cpu_seconds(pid: int) -> float:
    """CPU time of one process, all its threads, in steps of 10 ms."""
    return _cpu_seconds(_fields(Path(f"/proc/{pid}/stat")))


def resident_bytes(pid: int) -> int:
    """Its memory that is in RAM, shared pages included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _of_group(group: int) -> Iterator[tuple[int, list[str]]]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = _fields(file)
        except OSError:  # it has just ended
            continue
        if int(fields[_GROUP]) == group:
            yield int(file.parent.name), fields


def _cpu_seconds(fields: list[str]) -> float:
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_A_SECOND


def _fields(stat: Path) -> list[str]:
    return stat.read_text().rpartition(")")[2].split()
