"""Fills python_modules/ with what both Workers import: the pure core, and the Python packages of the Worker.

wrangler uploads the folder of `main` and python_modules/, nothing else. The wheels are those for Pyodide (PEP 783); versions are
pinned here and in pyproject.toml. Run by ./dev, by `kairos fabric dev` and, as [build], by wrangler.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = ROOT / "python_modules"
PACKAGES = ("workers-runtime-sdk==1.9.5", "msgspec==0.22.0")
PYODIDE = (
    "--python-version",
    "3.14",
    "--implementation",
    "cp",
    "--abi",
    "cp314",
    "--platform",
    "pyemscripten_2026_0_wasm32",
)


def vendor() -> None:
    """Does nothing when all is there. Raises subprocess.CalledProcessError when a package cannot be had."""
    stamp = MODULES / ".packages"
    wanted = hashlib.sha256(repr((PACKAGES, PYODIDE)).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(MODULES, ignore_errors=True)
        MODULES.mkdir()
        _unpack_wheels(MODULES)
        stamp.write_text(wanted)
    _copy_core(ROOT / "kairos", MODULES / "kairos")


def _unpack_wheels(into: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            (
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--only-binary",
                ":all:",
                "--no-deps",
                *PYODIDE,
                "-d",
                folder,
                *PACKAGES,
            ),
            check=True,
        )
        for wheel in sorted(Path(folder).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(into)


def _copy_core(source: Path, target: Path) -> None:
    """Replaces the copy only when it differs: a watcher must not wake for nothing."""
    fresh = {path.relative_to(source): path.read_bytes() for path in source.rglob("*.py")}
    held = {path.relative_to(target): path.read_bytes() for path in target.rglob("*.py")} if target.exists() else {}
    if fresh != held:
        shutil.rmtree(target, ignore_errors=True)
        for name, data in fresh.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)


if __name__ == "__main__":
    vendor()
