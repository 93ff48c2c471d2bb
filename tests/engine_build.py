"""The C engine built together with a driver of a test, outside Python: for sanitizers, and for millions of packets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SOURCES = _ROOT / "dataplane/csrc"
_DRIVERS = _ROOT / "tests/dataplane/sanitize"


def build_driver(name: str, folder: Path, flags: str) -> Path:
    """The program of `sanitize/<name>.c`, linked as its first lines ask. Needs gcc."""
    built = folder / name
    sources = [str(_DRIVERS / f"{name}.c"), *(str(path) for path in sorted(_SOURCES.glob("*.c")))]
    options = f"-std=gnu11 -g -D_GNU_SOURCE -I{_SOURCES} {flags} {link_options(name)}"
    subprocess.run(("gcc", *options.split(), "-o", str(built), *sources, "-lcrypto", "-lpthread", "-ldl"), check=True)
    return built


def link_options(name: str) -> str:
    return " ".join(re.findall(r"^ \* Link with: (.*)$", (_DRIVERS / f"{name}.c").read_text(), re.M))
