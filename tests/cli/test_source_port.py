"""Rules that could depend on the port a connection comes from are known as such, in whatever way they reach it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kairos_cli.source_port import reads_source_port

POLICIES = Path(__file__).parents[2] / "policies"
OPA = shutil.which("opa") or str(POLICIES.parent / ".tools/bin/opa")


def reads(rego: Path) -> bool:
    done = subprocess.run((OPA, "parse", "--format", "json", str(rego)), capture_output=True, check=True)
    return reads_source_port(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("p if input.dst.port == 443", False),
        ('p if input.src.ip == "10.0.0.1"', False),
        ("p if input.posture[fact] == fact", False),
        ("p if input.src.port == 443", True),
        ('p if input["src"]["port"] == 443', True),
        ("p if input.src[name] == 443", True),
        ("p if input[side].port == 443", True),
        ("p if input.dst.port == input.src.port", True),
        ("p if data.ports[input.src.port]", True),
        ("p if input.posture[input.src.port]", True),
        ("p := input", True),
        ("p := source.port if source := input.src", True),
        ("import input.src as source\np if source.port == 443", True),
        ("p if walk(input, [path, 443])", True),
        ("p if q with input as {}\nq if input.dst", True),
        ("p := [x | x := input.src.port]", True),
        ("p if every x in input.tags { x < input.src.port }", True),
        ('p := $"from {input.src.port}"', True),
    ],
)
def test_a_rule(tmp_path: Path, rule: str, expected: bool) -> None:
    rego = tmp_path / "rule.rego"
    rego.write_text(f"package x\n\n{rule}\n")
    assert reads(rego) is expected


def test_the_shipped_rules_do_not() -> None:
    shipped = [rule for rule in POLICIES.glob("*.rego") if not rule.stem.endswith("_test")]
    assert shipped
    assert not any(map(reads, shipped))
