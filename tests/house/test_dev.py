"""The steps of ./dev: one at a time or beside each other, done once, and a failure names its log and leaves nothing running."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

DEV = (Path(__file__).parents[2] / "dev").read_text()
STEPS = "logs=" + DEV.partition("\nlogs=")[2].partition("\ndigest()")[0]
HEAD = """set -euo pipefail
fail() { printf 'dev: %s\\n' "$*" >&2; exit 1; }
"""


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("bash", "-c", HEAD + STEPS + script), cwd=folder, capture_output=True, text=True, check=False
    )


def names(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.partition(" ...")[0].strip() for line in done.stderr.splitlines()]


def test_a_step_runs_once_for_each_state_of_what_it_depends_on(tmp_path: Path) -> None:
    for digest, ran in (("one", ["do it"]), ("one", []), ("two", ["do it"])):
        done = run(tmp_path, f"\nstep it {digest} 'do it' sh -c 'echo x >>count'")
        assert (done.returncode, names(done)) == (0, ran)
    assert (tmp_path / "count").read_text() == "x\nx\n"


def test_a_step_that_was_begun_runs_beside_the_next_and_is_told_when_it_is_waited_for(tmp_path: Path) -> None:
    """Each of the two waits for the other."""
    os.mkfifo(tmp_path / "pipe")
    script = "\nbegin one 1 sh -c 'read word <pipe; echo $word >said'\nstep two 1 'do two' sh -c 'echo hello >pipe'"
    done = run(tmp_path, script + "\nfinish one 1 'do one'\nfinish one 1 'do one'")
    assert (done.returncode, names(done)) == (0, ["do two", "do one"])
    assert (tmp_path / "said").read_text() == "hello\n"


@pytest.mark.parametrize("begun", [False, True])
def test_a_failure_names_its_log_and_ends_what_runs_beside_it(tmp_path: Path, begun: bool) -> None:
    bad = "bad() { echo before; false; echo after; }\n"
    failing = "begin bad 1 bad\nfinish bad 1 'do bad'" if begun else "step bad 1 'do bad' bad"
    script = f"\n{bad}os() {{ echo $BASHPID >pid; exec sleep 600; }}\nbegin long 1 os\nuntil [ -s pid ]; do :; done\n{failing}"
    done = run(tmp_path, script)
    assert done.returncode == 1
    assert (
        "  do bad ...".ljust(62) + " failed\nbefore\ndev: could not do bad; the whole log is .tools/logs/bad.log"
        in done.stderr
    )
    assert "after" not in done.stderr
    assert not (tmp_path / ".tools/stamps/bad").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
