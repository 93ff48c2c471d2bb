"""The extension as it is built: what its compiler and linker put in against faults in C is there."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import cache

import pytest

from kairos_dataplane import _kdp

X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 instructions")


@cache
def read(*command: str) -> str:
    return subprocess.run((*command, _kdp.__file__), capture_output=True, text=True, check=True).stdout


def functions() -> dict[str, str]:
    """The instructions of each exported function, by its name."""
    found = re.findall(r"^\w+ <(kdp_\w+)>:\n(.*?)(?:\n\n|\Z)", read("objdump", "-d", "-w"), re.M | re.S)
    return dict(found)


def test_its_tables_are_read_only_once_it_is_loaded() -> None:
    assert re.search(r"^ *GNU_RELRO ", read("readelf", "-lW"), re.M)
    assert re.search(r"\(FLAGS\) +BIND_NOW|\(FLAGS_1\) .*\bNOW\b", read("readelf", "-dW"))


def test_no_segment_is_writable_and_executable() -> None:
    segments = re.findall(r"^ *(?:LOAD|GNU_STACK) .* ([R ][W ][E ]) +0x", read("readelf", "-lW"), re.M)
    assert len(segments) > 2
    assert not [flags for flags in segments if "W" in flags and "E" in flags]


def test_a_broken_stack_and_a_buffer_that_is_too_small_end_the_process() -> None:
    symbols = read("readelf", "-W", "--dyn-syms")
    for name in ("__stack_chk_fail", "__memcpy_chk", "__snprintf_chk"):
        assert re.search(rf"\bUND {name}\b", symbols), name


@X86
def test_every_exported_function_is_a_marked_target_of_an_indirect_call() -> None:
    """-fcf-protection. The mark of the whole file would need the C library's start files to have it too."""
    exported = functions()
    assert len(exported) > 30
    assert not [name for name, text in exported.items() if "endbr64" not in text.partition("\n")[0]]


@X86
def test_a_large_frame_touches_each_page_of_the_stack() -> None:
    """-fstack-clash-protection."""
    assert re.search(r"\borq? +\$0x0,(0x\w+)?\(%rsp\)", read("objdump", "-d", "-w"))
