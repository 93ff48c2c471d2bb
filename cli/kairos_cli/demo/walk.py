"""`./dev walk`: runs the commands of docs/walk.md word for word, in one shell, as a person who pastes them; exits 1 at the first that does
not do what the document says. A block that is marked `fails` has to end with an error."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from kairos_cli.fabric import workspace

_BLOCK = re.compile(r"^```sh( fails)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CLEAN_UP = """
clean_up() {
  set +e
  for host in gateway laptop; do ip netns pids walk-$host | xargs -r kill; done
  kill $(jobs -p)
  wait
  for host in gateway laptop; do ip netns del walk-$host; done
  for link in walk-2 walk-3 walk0; do ip link del $link; done  # a namespace goes later than its command ends
  rm -rf /tmp/kairos-walk
} 2> /dev/null
clean_up
trap clean_up EXIT
"""
_PATIENCE_S = 180


def script(document: str) -> str:
    """All blocks as one program. A block that must fail runs in a subshell with `set -e`, which `if` would switch off."""
    parts = [_CLEAN_UP, "set -eu"]
    for fails, block in _BLOCK.findall(document):
        shown = f"cat << 'SHOWN'\n\n{block}SHOWN"
        if fails:
            parts.append(f"{shown}\nset +e\n(set -e\n{block})\nended=$?\nset -e")
            parts.append("if [ $ended = 0 ]; then echo 'walk: this had to fail'; exit 1; fi")
        else:
            parts.append(f"{shown}\n{block}")
    return "\n".join(parts) + "\n"


def main() -> int:
    began = time.monotonic()
    shell = (
        "timeout",
        "--signal=TERM",
        str(_PATIENCE_S),
        "bash",
        "-c",
        script((workspace.folder() / "docs/walk.md").read_text()),
    )
    status = subprocess.run(shell, check=False).returncode
    print(f"\nwalk: {'it holds' if status == 0 else 'FAILED'}, {time.monotonic() - began:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
