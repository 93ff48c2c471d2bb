"""The C engine built together with a driver of a test, outside Python: for sanitizers, and for millions of packets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "dataplane/csrc"
DRIVERS = ROOT / "tests/dataplane/sanitize"
LIBRARIES = ("-lcrypto", "-lpthread", "-ldl")
"""That the engine is linked with."""


def build_driver(name: str, folder: Path, flags: str) -> Path:
    """The program of `sanitize/<name>.c`, linked as its first lines ask. Needs gcc."""
    built = folder / name
    sources = [str(DRIVERS / f"{name}.c"), *(str(path) for path in sorted(CSRC.glob("*.c")))]
    options = f"-std=gnu11 -g -D_GNU_SOURCE -I{CSRC} {flags} {link_options(name)}"
    subprocess.run(("gcc", *options.split(), "-o", str(built), *sources, *LIBRARIES), check=True)
    return built


def link_options(name: str) -> str:
    return " ".join(re.findall(r"^ \* Link with: (.*)$", (DRIVERS / f"{name}.c").read_text(), re.M))
