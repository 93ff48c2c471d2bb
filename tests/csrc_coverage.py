"""Which branches of dataplane/csrc the tests and the fuzz corpora take, by gcov. `./dev coverage [PYTEST ARGUMENTS]`

The engine is compiled once, without optimisation. Its objects are linked with each fuzz target, which runs its corpus; with each
driver of the sanitizer tests; and into an extension, on which tests/dataplane run. It fails below 95 %. Lines with a branch that
nothing takes are named in dataplane/fuzz/not-covered.md; those that are not, and those that are covered by now, are printed.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fuzzers
from engine_build import CSRC, DRIVERS, LIBRARIES, ROOT, link_options

_FUZZ = ROOT / "dataplane/fuzz"
_WORK = ROOT / ".build/coverage"
_REASONS = _FUZZ / "not-covered.md"
_FLAGS = ("-std=gnu11", "-O0", "-g", "-fPIC", "-D_GNU_SOURCE", f"-I{CSRC}", f"-I{_FUZZ}")
_COVERAGE = ("--coverage", "-fprofile-update=atomic")
# Each driver with its arguments.
_RUNS = (
    ("driver", ("openssl", "1", "12000")),
    ("driver", ("ipsec-mb", "2", "12000")),
    ("flood", ("openssl", "30000")),
    ("starve", ("openssl",)),
    ("inbox", ("openssl",)),
    ("lives", ("openssl", "5000")),
)
LEAST = 0.95


@dataclass(frozen=True, slots=True)
class Line:
    file: str
    number: int
    text: str
    taken: int
    """Branches of the line that were taken."""
    branches: int


def run(*command: str | Path, **environment: str) -> None:
    subprocess.run(tuple(map(str, command)), check=True, env={**os.environ, **environment}, cwd=_WORK)


def compile_engine() -> list[Path]:
    built = []
    for source in sorted(CSRC.glob("*.c")):
        built.append(_WORK / f"{source.stem}.o")
        run("gcc", *_FLAGS, *_COVERAGE, "-c", "-o", built[-1], source)
    return built


def run_corpora(engine: list[Path]) -> None:
    for target in fuzzers.TARGETS:
        program = _WORK / f"fuzz_{target}"
        sources = [_FUZZ / f"{name}.c" for name in (target, "rig", "standalone")]
        run("gcc", *_FLAGS, *fuzzers.LINK_OPTIONS, "-o", program, *sources, *engine, *LIBRARIES, "-lgcov")
        corpus = fuzzers.unpack_corpus(target, _WORK / "corpus" / target)
        run(program, _WORK / "finding", "0", "0", *sorted(corpus.iterdir()))


def run_drivers(engine: list[Path]) -> None:
    for name, arguments in _RUNS:
        source, program = DRIVERS / f"{name}.c", _WORK / f"driver_{name}"
        options = (*_FLAGS, *link_options(name).split())
        run("gcc", *options, "-o", program, source, *engine, *LIBRARIES, "-lgcov")
        run(program, *arguments)


def run_tests(engine: list[Path], arguments: list[str]) -> None:
    """A package of the same Python with an extension of these objects stands before the built one."""
    package = _WORK / "site/kairos_dataplane"
    shutil.copytree(ROOT / "dataplane/kairos_dataplane", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    emit = "import build_dataplane as b, sys; b.ffibuilder.emit_c_code(sys.argv[1])"
    run(sys.executable, "-c", emit, _WORK / "_kdp.c", PYTHONPATH=str(ROOT / "dataplane"))
    include = sysconfig.get_paths()["include"]
    extension = package / "_kdp.abi3.so"
    run("gcc", *_FLAGS, f"-I{include}", "-shared", "-o", extension, _WORK / "_kdp.c", *engine, *LIBRARIES, "-lgcov")
    # Those build or need another one.
    own_engine = ("fuzz", "sanitizers", "flood", "inbox", "lives", "soak", "hardening")
    tests = arguments or ["tests/dataplane", *(f"--ignore=tests/dataplane/test_{name}.py" for name in own_engine)]
    subprocess.run(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(_WORK / "site")},
        check=True,
    )


def measure(engine: list[Path]) -> Iterator[Line]:
    for built in engine:
        gcov = ("gcov", "--json-format", "--branch-probabilities", str(built))
        subprocess.run(gcov, check=True, cwd=_WORK, capture_output=True)
        with gzip.open(_WORK / f"{built.stem}.gcov.json.gz", "rt") as report:
            files = json.load(report)["files"]
        for file in files:
            path = Path(file["file"])
            if path.parent != CSRC or path.suffix != ".c":
                continue
            text = path.read_text().splitlines()
            for line in file["lines"]:
                counts = [branch["count"] for branch in line["branches"]]
                if counts:
                    number = line["line_number"]
                    yield Line(path.name, number, text[number - 1].strip(), sum(c > 0 for c in counts), len(counts))


def reasons() -> set[tuple[str, str]]:
    """File and beginning of each line whose branches need not all be taken."""
    return set(re.findall(r"^- (\w+\.c) `(.*)`$", _REASONS.read_text(), re.M))


def main() -> int:
    shutil.rmtree(_WORK, ignore_errors=True)
    _WORK.mkdir(parents=True)
    engine = compile_engine()
    run_corpora(engine)
    run_drivers(engine)
    run_tests(engine, sys.argv[1:])
    lines = list(measure(engine))
    taken, branches = sum(line.taken for line in lines), sum(line.branches for line in lines)
    missed = [line for line in lines if line.taken < line.branches]
    named = reasons()
    for line in missed:
        if not any(line.file == file and line.text.startswith(text) for file, text in named):
            print(f"no reason: {line.file}:{line.number}: {line.branches - line.taken} of {line.branches}: {line.text}")
    for file, text in sorted(named):
        if not any(line.file == file and line.text.startswith(text) for line in missed):
            print(f"covered by now, or gone: {file}: {text}")
    print(f"csrc_branches_covered_pct={100 * taken / branches:.1f} ({taken} of {branches})")
    return 0 if taken >= LEAST * branches else 1


if __name__ == "__main__":
    sys.exit(main())
