"""Importing the pure core touches no clock, no entropy and no socket: in production it is imported at snapshot time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib, os, pathlib, random, secrets, socket, sys, time
import msgspec  # what it does at import is its own

def refuse(*a, **k):
    raise AssertionError("used at import")

for module, names in {
    time: ("time", "monotonic", "perf_counter", "time_ns", "sleep"),
    os: ("urandom", "getrandom"),
    secrets: ("token_bytes", "token_hex", "randbelow"),
    random: ("random", "randbytes", "getrandbits"),
    socket: ("socket", "create_connection", "getaddrinfo"),
}.items():
    for name in names:
        setattr(module, name, refuse)
root = pathlib.Path(sys.argv[1])
for path in sorted((root / "kairos").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
print("pure")
"""


def test_the_core_is_imported_without_clock_entropy_or_socket() -> None:
    done = subprocess.run((sys.executable, "-c", PROGRAM, str(ROOT)), capture_output=True, text=True, check=False)
    assert done.stdout == "pure\n", done.stderr
