"""Who may read the memory of a daemon."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

USER = 1000
HOLDER = """
import resource, signal, sys
if sys.argv[1] == "private":
    from kairos_node.private_memory import keep_memory_private
    keep_memory_private()
print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
signal.pause()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to be another user, twice")
@pytest.mark.parametrize(("kind", "reads"), [("open", True), ("private", False)])
def test_another_program_of_the_user_reads_nothing(kind: str, reads: bool) -> None:
    user = {"user": USER, "group": USER, "extra_groups": []}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", sys.executable, "-c", HOLDER, kind),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with holder:
        assert holder.stdout is not None
        limit = holder.stdout.readline()
        spy = subprocess.run(("cat", f"/proc/{holder.pid}/environ"), capture_output=True, check=False, **user)  # type: ignore[call-overload]
        holder.kill()
    assert (spy.returncode == 0) == reads
    assert reads or limit == "0\n"
