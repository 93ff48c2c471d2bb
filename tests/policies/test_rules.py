"""The shipped rules: their own tests, their coverage, and the same answers from OPA and from the engine that nodes run."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from policy_inputs import GRANTS, POINTS, some_input

from kairos_cli.grants import load_grants
from kairos_cli.policy import compile_bundle
from kairos_node.policy import Engine
from kairos_node.policy.bundle import unpack_untrusted
from kairos_node.policy.opa import OpaEngine

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "policies"
RULES = sorted(str(path) for path in POLICIES.glob("*.rego") if not path.stem.endswith("_test"))
OPA = shutil.which("opa") or str(ROOT / ".tools/bin/opa")
INPUTS = 400
PATIENT_MS = 20_000


def opa(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run((OPA, *arguments), input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def grants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grants") / "grants.json"
    path.write_text(json.dumps(GRANTS))
    return path


@pytest.fixture(scope="module")
def engine(grants: Path) -> Engine:
    return Engine(unpack_untrusted(compile_bundle(POLICIES, grants)), 1, b"")


@pytest.fixture(scope="module")
def server(grants: Path) -> Iterator[OpaEngine]:
    engine = OpaEngine(unpack_untrusted(compile_bundle(POLICIES, grants)), 1, b"", PATIENT_MS, OPA)
    yield engine
    engine.close()


def test_the_rules_pass_their_own_tests_with_full_coverage() -> None:
    opa("check", "--strict", *(str(path) for path in POLICIES.glob("*.rego")))
    report = json.loads(opa("test", "--coverage", *(str(path) for path in POLICIES.glob("*.rego"))))
    assert report["coverage"] >= 95


@pytest.mark.parametrize("point", POINTS)
def test_the_engines_answer_as_opa_does(
    point: str, engine: Engine, server: OpaEngine, grants: Path, tmp_path: Path
) -> None:
    """All inputs in one `opa eval`, so that OPA's start is paid once."""
    random_ = random.Random(point)
    documents = [some_input(random_, point) for _ in range(INPUTS)]
    inputs, data = tmp_path / "inputs.json", tmp_path / "data.json"
    inputs.write_text(json.dumps({"documents": documents}))
    data.write_bytes(load_grants(grants))
    query = (
        f"[answer | some document in input.documents; answer := data.kairos.{point}.decision with input as document]"
    )
    loaded = [word for rule in RULES for word in ("--data", rule)]
    answer = opa("eval", "--format", "json", *loaded, "--data", str(data), "--input", str(inputs), query)
    expected = json.loads(answer)["result"][0]["expressions"][0]["value"]
    decisions = [engine.decide(point, document) for document in documents]
    assert len(expected) == INPUTS
    assert [(each["allow"], each["rule"]) for each in expected] == [(each.allow, each.rule) for each in decisions]
    assert {each.allow for each in decisions} == {True, False}
    assert [server.decide(point, document) for document in documents] == decisions
