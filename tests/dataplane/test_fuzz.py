"""Each fuzz target runs its corpus and changes of it, some thousand runs, the same each time, without a fault: built by gcc, with the
sanitizers of which a fault is an end. libFuzzer, which needs clang, looks for more in `./dev fuzz` and `./dev nightly`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import fuzzers

RUNS = 4_000
PLANTED = """
#include "fuzz.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  require(size == 0 || data[0] != 'K', "a planted fault");
  return 0;
}
"""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the fuzz targets")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fuzzers.STANDALONE.compile_shared(tmp_path_factory.mktemp("objects"))


@pytest.mark.parametrize("target", fuzzers.TARGETS)
def test_a_target_finds_no_fault(target: str, shared: list[Path], tmp_path: Path) -> None:
    program = fuzzers.STANDALONE.build(fuzzers.source_of(target), shared, tmp_path)
    corpus = fuzzers.unpack_corpus(target, tmp_path / "corpus")
    inputs = len(list(corpus.iterdir()))
    assert inputs > 10
    outcome = fuzzers.run_standalone(program, corpus, tmp_path / "findings", RUNS, seed=1)
    assert not outcome.findings, outcome.log[-6000:]
    assert outcome.executions == inputs + RUNS


def test_a_fault_is_found_and_kept(shared: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "planted.c"
    source.write_text(PLANTED)
    program = fuzzers.STANDALONE.build(source, shared, tmp_path)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    outcome = fuzzers.run_standalone(program, corpus, tmp_path / "findings", 100_000, seed=1)
    (found,) = outcome.findings
    assert found.read_bytes().startswith(b"K")
    assert "fuzz: a planted fault" in outcome.log
    assert 0 < outcome.executions < 100_000
