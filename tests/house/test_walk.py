"""The ten-minute walk is a program (`./dev walk` runs it): what this suite can hold true of it without running it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from kairos_cli.demo.walk import script
from kairos_cli.registry import VERBS

WALK = (Path(__file__).parents[2] / "docs/walk.md").read_text()


def test_it_is_a_shell_program() -> None:
    assert WALK.count("```sh fails\n") == 3
    assert subprocess.run(("bash", "-n"), input=script(WALK), text=True, check=False).returncode == 0


def test_every_verb_in_it_exists() -> None:
    names = {verb.name for verb in VERBS}
    said = set(re.findall(r"\bkairos ([a-z]+(?: [a-z]+)?)", "\n".join(re.findall(r"```sh.*?```", WALK, re.DOTALL))))
    assert len(said) > 10
    assert {verb for verb in said if verb not in names and verb.split(" ")[0] not in names} == set()
