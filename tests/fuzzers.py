"""Builds and runs the fuzz targets of dataplane/fuzz, with AddressSanitizer and UndefinedBehaviorSanitizer: by clang's libFuzzer, which
looks for inputs that reach new code, or by gcc with dataplane/fuzz/standalone.c, which repeats known ones and changes of them.

./dev fuzz TARGET | all [--minutes N] [--json FILE] [--keep]

Inputs that reach new code stay in .build/fuzz/TARGET/corpus for the next run, and what ends a target in .build/fuzz/TARGET/findings.
--keep puts the smallest set of inputs that reaches the same code into the tree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archives import unpacking
from engine_build import CSRC, LIBRARIES, ROOT

_FUZZ = ROOT / "dataplane/fuzz"
_WORK = ROOT / ".build/fuzz"
_SHARED = ("rig",)
_ALONE = ("standalone",)
TARGETS = tuple(sorted(path.stem for path in _FUZZ.glob("*.c") if path.stem not in (*_SHARED, *_ALONE)))

_SANITIZERS = "address,undefined"
_FLAGS = (
    *("-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-fno-omit-frame-pointer"),
    *("-fno-sanitize-recover=all", f"-I{CSRC}", f"-I{_FUZZ}", "-c"),
)
# rig.c is the engine's clock.
LINK_OPTIONS = ("-Wl,--wrap=clock_ms",)
# Bytes of an input; seconds of one input, and megabytes, that are a finding too. Leaks are looked for once, at the end: the engine
# keeps some of what it allocates for the next input, and each of those would start a search.
_LIMITS = ("-max_len=1024", "-timeout=10", "-rss_limit_mb=4096", "-detect_leaks=0", "-print_final_stats=1")


@dataclass(frozen=True, slots=True)
class Outcome:
    executions: int
    """Inputs that were run, those of the corpus included."""
    findings: tuple[Path, ...]
    """Inputs that ended the target."""
    log: str
    """What the target has printed."""


@dataclass(frozen=True, slots=True)
class Builder:
    """A compiler with its sanitizers, and how it makes a program of a target."""

    compile: tuple[str, ...]
    link: tuple[str, ...]
    shared: tuple[str, ...]
    """The files of dataplane/fuzz that are linked with each target."""

    def compile_shared(self, folder: Path) -> list[Path]:
        """The objects of the engine and of what the targets share."""
        folder.mkdir(parents=True, exist_ok=True)
        sources = [*sorted(CSRC.glob("*.c")), *(_FUZZ / f"{name}.c" for name in self.shared)]
        return [self.compile_one(source, folder) for source in sources]

    def compile_one(self, source: Path, folder: Path) -> Path:
        # dataplane/csrc and dataplane/fuzz have an engine.c and a config.c each.
        built = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run((*self.compile, *_FLAGS, "-o", str(built), str(source)), check=True)
        return built

    def build(self, source: Path, shared: Sequence[Path], folder: Path) -> Path:
        """The program of a target."""
        built = folder / f"fuzz_{source.stem}"
        folder.mkdir(parents=True, exist_ok=True)
        objects = map(str, (self.compile_one(source, folder), *shared))
        subprocess.run((*self.link, *LINK_OPTIONS, "-o", str(built), *objects, *LIBRARIES), check=True)
        return built


LIBFUZZER = Builder(
    compile=("clang", f"-fsanitize=fuzzer-no-link,{_SANITIZERS}"),
    link=("clang", f"-fsanitize=fuzzer,{_SANITIZERS}"),
    shared=_SHARED,
)
STANDALONE = Builder(
    compile=("gcc", f"-fsanitize={_SANITIZERS}"),
    link=("gcc", f"-fsanitize={_SANITIZERS}"),
    shared=(*_SHARED, *_ALONE),
)


def source_of(target: str) -> Path:
    return _FUZZ / f"{target}.c"


def unpack_corpus(target: str, folder: Path) -> Path:
    """The corpus of the tree, as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = _FUZZ / f"corpus/{target}.tar.xz"
    if archive.exists():
        with unpacking(archive) as packed:
            packed.extractall(folder)
    return folder


def run(program: Path, corpora: Sequence[Path], findings: Path, *options: str) -> Outcome:
    """corpora: the first takes new inputs. options: of libFuzzer."""
    command = (str(program), *_LIMITS, f"-artifact_prefix={findings}/", *options, *map(str, corpora))
    return _run(command, findings)


def run_standalone(program: Path, corpus: Path, findings: Path, runs: int, seed: int) -> Outcome:
    """The inputs of the corpus, and so many changes of them: the same for the same seed."""
    command = (str(program), str(findings / "ended-here"), str(runs), str(seed), *map(str, sorted(corpus.iterdir())))
    return _run(command, findings)


def _run(command: Sequence[str], findings: Path) -> Outcome:
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    options = {
        "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:abort_on_error=1",
        "UBSAN_OPTIONS": "abort_on_error=1",
    }
    environment = {**os.environ, **options}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    executed = re.findall(r"stat::number_of_executed_units: +(\d+)", done.stderr)
    found = tuple(sorted(set(findings.iterdir()) - before))
    if done.returncode != 0 and not found:  # a leak at the end has no input of its own
        found = (findings / "leak-at-the-end",)
        found[0].write_text(done.stderr)
    return Outcome(int(executed[-1]) if executed else 0, found, done.stderr)


def keep(program: Path, target: str, corpora: Sequence[Path]) -> int:
    """Packs the inputs that reach what all of them reach, into the tree. Returns how many there are."""
    with tempfile.TemporaryDirectory() as folder:
        command = (str(program), *_LIMITS, "-merge=1", folder, *map(str, corpora))
        subprocess.run(command, capture_output=True, check=True)
        inputs = sorted(Path(folder).iterdir())
        archive = _FUZZ / f"corpus/{target}.tar.xz"
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:xz") as packed:
            for path in inputs:
                _add(packed, path)
    return len(inputs)


def _add(packed: tarfile.TarFile, path: Path) -> None:
    """Without owner and time: the same inputs make the same archive."""
    info = tarfile.TarInfo(path.name)
    info.size = path.stat().st_size
    with path.open("rb") as data:
        packed.addfile(info, data)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__.partition("\n")[0] if __doc__ else None)
    arguments.add_argument("target", choices=(*TARGETS, "all"))
    arguments.add_argument("--minutes", type=float, default=1, help="of each target")
    arguments.add_argument("--json", type=Path, help="where the figures go")
    arguments.add_argument("--keep", action="store_true", help="puts new inputs into the tree's corpus")
    asked = arguments.parse_args()
    targets = TARGETS if asked.target == "all" else (asked.target,)
    shared = LIBFUZZER.compile_shared(_WORK / "objects")
    outcomes = {}
    for target in targets:
        folder = _WORK / target
        program = LIBFUZZER.build(source_of(target), shared, folder)
        shutil.rmtree(folder / "kept", ignore_errors=True)
        corpora = (folder / "corpus", unpack_corpus(target, folder / "kept"))
        corpora[0].mkdir(exist_ok=True)
        outcome = run(program, corpora, folder / "findings", f"-max_total_time={round(asked.minutes * 60)}")
        outcomes[target] = outcome
        print(f"{target:<14}{outcome.executions:>12,} executions   {len(outcome.findings)} findings", flush=True)
        for path in outcome.findings:
            print(f"  {path}\n  again: {program} {path}")
            print("\n".join(f"  {line}" for line in outcome.log.splitlines() if "fuzz:" in line or "ERROR" in line))
        if asked.keep and not outcome.findings:
            print(f"{'':<14}{keep(program, target, corpora):>12,} inputs kept", flush=True)
    figures = {
        "fuzz_executions": sum(outcome.executions for outcome in outcomes.values()),
        "fuzz_findings_open": sum(len(outcome.findings) for outcome in outcomes.values()),
    }
    if asked.json:
        each = {f"fuzz_executions_{target}": outcome.executions for target, outcome in outcomes.items()}
        asked.json.write_text(json.dumps({"measurement": "fuzz", "figures": {**figures, **each}}, indent=2) + "\n")
    print(" ".join(f"{name}={value}" for name, value in figures.items()))
    return 1 if figures["fuzz_findings_open"] else 0


if __name__ == "__main__":
    sys.exit(main())
