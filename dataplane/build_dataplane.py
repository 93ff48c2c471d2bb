"""Builds the extension `kairos_dataplane._kdp`: cffi reads the C face from csrc/kdp_api.h, word for word."""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
SOURCES = HERE / "csrc"
MODULES = (
    "aead",
    "replay",
    "fib",
    "packet",
    "event",
    "relay",
    "inbox",
    "fragment",
    "parked",
    "flow",
    "transmit",
    "receive",
    "translate",
    "forward",
    "tun",
    "config",
    "ended",
    "engine",
)


def declarations() -> str:
    """The header without its preprocessor lines."""
    lines = (SOURCES / "kdp_api.h").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "kairos_dataplane._kdp",
    '#include "kdp_api.h"',
    sources=[os.path.relpath(SOURCES / f"{name}.c", Path.cwd()) for name in MODULES],
    depends=[os.path.relpath(header, Path.cwd()) for header in SOURCES.glob("*.h")],
    include_dirs=[os.path.relpath(SOURCES, Path.cwd())],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=gnu11", "-O3", "-fno-plt", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    libraries=["crypto", "pthread", "dl"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True, tmpdir=str(HERE))
