"""What processes spend, out of /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP, _USER, _SYSTEM = 2, 11, 12  # fields behind the command's name (proc(5), counted from the state)


def members(group: int) -> list[int]:
    """The living processes of a process group. Looks at every process there is."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(_fields(file)[_GROUP]) == group:
                found.append(int(file.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def cpu_seconds(group: int) -> float:
    """CPU time of all living processes of a process group, in steps of 10 ms."""
    return sum(map(process_cpu_seconds, members(group)))


def process_cpu_seconds(pid: int) -> float:
    """CPU time of one process, all its threads, in steps of 10 ms."""
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_A_SECOND


def resident_bytes(pid: int) -> int:
    """Its memory that is in RAM, shared pages included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _fields(stat: Path) -> list[str]:
    return stat.read_text().rpartition(")")[2].split()
