"""An earlier revision of this repository beside the working tree, ready to run: what an upgrade starts from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import worker_network
from archives import unpacking

ROOT = Path(__file__).parents[1]
UNVERSIONED = "a944a173169b471a48bcaa3b9c6f8812da8e17dd"
"""The last revision whose schemas had no versions."""

_HOUSES = ("", "node", "agent", "gateway", "cli", "dataplane", "workers/src", "tests")
_SHARED = (".tools", ".build", "node_modules")  # made by ./dev setup, the same for both trees


class NotInHistory(Exception):
    """The revision is not in this clone, or this is no clone."""


@dataclass(frozen=True)
class Tree:
    """A checkout that runs on the working tree's interpreter and tools."""

    root: Path
    """Where it is."""

    @property
    def environment(self) -> dict[str, str]:
        """With these variables, a Python process imports this tree's packages and not the working tree's."""
        return {
            "PYTHONPATH": ":".join(str(self.root / house) for house in _HOUSES),
            "PATH": f"{self.root / '.tools/bin'}:{os.environ['PATH']}",
            "OQS_INSTALL_PATH": str(self.root / ".tools/liboqs"),
        }

    def python(self, *arguments: str, timeout: float = 300) -> str:
        """Runs it there to its end and returns what it printed. Raises subprocess.CalledProcessError."""
        done = subprocess.run(
            (sys.executable, *arguments),
            cwd=self.root,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(done.stderr)
            done.check_returncode()
        return done.stdout


class EarlierFabric:
    """A local fabric that runs the code of another tree: its two processes, and one that starts and kills them."""

    def __init__(self, tree: Tree, folder: Path, host: str, port: int) -> None:
        """folder: the operator directory, with the state in `state/`."""
        self._process = subprocess.Popen(
            (sys.executable, "-c", _FABRIC, str(folder), host, str(port)),
            cwd=tree.root,
            env=os.environ | tree.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._await_answer()

    def kill(self, worker: str) -> None:
        """Returns when its port is free."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{worker}\n")
        self._process.stdin.flush()
        self._await_answer()

    def stop(self) -> None:
        self._process.communicate(timeout=60)

    def _await_answer(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("the earlier fabric did not start, or died; its error is above")


_FABRIC = """
import sys
from pathlib import Path
from kairos_cli.fabric.local import LocalFabric
from kairos_cli.fabric.operator import Operator

folder = Path(sys.argv[1])
fabric = LocalFabric(Operator.load(folder), folder / "state", sys.argv[2], int(sys.argv[3]))
fabric.start()
try:
    print("done", flush=True)
    for line in sys.stdin:
        fabric.kill(line.strip())
        print("done", flush=True)
finally:
    fabric.stop()
"""


def checkout(revision: str, folder: Path) -> Tree:
    """The files of `revision` in `folder`, with its Workers' packages and its data plane. Raises NotInHistory."""
    archive = folder.with_suffix(".tar")
    found = subprocess.run(
        ("git", "archive", "--format=tar", "-o", str(archive), revision), cwd=ROOT, capture_output=True, check=False
    )
    if found.returncode:
        raise NotInHistory(f"revision {revision[:7]} is not in the history of {ROOT}: a shallow clone, or no clone")
    with unpacking(archive) as files:
        files.extractall(folder)
    archive.unlink()
    for name in _SHARED:
        (folder / name).symlink_to(ROOT / name)
    # A copy, for each tree puts its own core into it.
    shutil.copytree(ROOT / "python_modules", folder / "python_modules")
    tree = Tree(folder)
    with worker_network.of_the_machine():  # its packages may be others than ours
        tree.python("workers/vendor.py")
    _add_dataplane(tree, revision)
    return tree


def _add_dataplane(tree: Tree, revision: str) -> None:
    """The working tree's extension where its sources are those of the revision; else one of its own is built."""
    same = ("git", "diff", "--quiet", revision, "--", "dataplane", "setup.py")
    if subprocess.run(same, cwd=ROOT, check=False).returncode == 0:
        for built in (ROOT / "dataplane/kairos_dataplane").glob("_kdp*.so"):
            shutil.copy(built, tree.root / "dataplane/kairos_dataplane")
    else:
        tree.python("setup.py", "-q", "build_ext", "--inplace")
