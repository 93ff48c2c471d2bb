"""Builds the extension `kairos_dataplane._kdp`: cffi reads the C face from csrc/kdp_api.h, word for word."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
SOURCES = HERE / "csrc"
MODULES = (
    "aead",
    "aead_check",
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

# The engine reads what others send: a fault in it should end the process and not lead further. tests/dataplane/test_hardening.py
# reads the result. Below gcc 12, glibc takes level 3 of _FORTIFY_SOURCE for 2.
HARDENING = ["-fstack-protector-strong", "-fstack-clash-protection", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"]
BRANCH_PROTECTION = {"x86_64": ["-fcf-protection"], "aarch64": ["-mbranch-protection=standard"]}


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
    extra_compile_args=[
        *("-std=gnu11", "-O3", "-fno-plt", "-Wall", "-Wextra"),
        "-Wno-unused-parameter",  # cffi's own functions have some
        *HARDENING,
        *BRANCH_PROTECTION.get(platform.machine(), []),
    ],
    extra_link_args=["-Wl,-z,relro", "-Wl,-z,now"],
    libraries=["crypto", "pthread", "dl"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True, tmpdir=str(HERE))
