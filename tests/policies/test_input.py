"""Every input document that the code builds is one that the schema describes, and rules are checked against that schema."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos.api.session import Member
from kairos.errors import KairosError
from kairos.policy.input import Application, flow_input
from kairos_cli.negation import traps
from kairos_cli.policy import compile_bundle

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "policies/input.schema.json").read_text())

ADDRESSES = st.ip_addresses().map(str)
NAMES = st.lists(st.text(max_size=8), max_size=3)
MEMBERS = st.builds(
    Member,
    node=st.text(max_size=20),
    role=st.sampled_from(["endpoint", "gateway"]),
    name=st.text(max_size=20),
    serial=st.just("1"),
    key=st.just(b""),
    tags=NAMES,
    groups=NAMES,
    owner=st.text(max_size=8),
)
PROGRAMS = st.builds(Application, st.text(max_size=8), st.integers(0, 99), st.text(max_size=8), st.text(max_size=8))
FLOWS = st.builds(
    flow_input,
    st.sampled_from(["egress", "ingress"]),
    now=st.just("2026-11-25T12:00:00Z"),
    tenant=st.just("acme"),
    vni=st.integers(1, 16_777_215),
    vni_name=st.text(max_size=10),
    device=st.none() | MEMBERS,
    peer=st.none() | MEMBERS,
    source=st.tuples(ADDRESSES, st.integers(0, 65_535)),
    destination=st.tuples(ADDRESSES, st.integers(0, 65_535)),
    protocol=st.integers(0, 255),
    gateway=st.text(max_size=10),
    attachment=st.text(max_size=10),
    app=st.none() | PROGRAMS,
    claim_heard=st.booleans(),
    claimed_app=st.none() | PROGRAMS,
    posture=st.none() | st.dictionaries(st.text(max_size=4), st.integers()),
)


def mismatches(documents: list[dict[str, Any]]) -> list[Any]:
    """What OPA's own schema validator says against them."""
    program = shutil.which("opa") or str(ROOT / ".tools/bin/opa")
    query = "[errors | some document in input.documents; [_, errors] := json.match_schema(document, input.schema)]"
    done = subprocess.run(
        (program, "eval", "--stdin-input", "--format", "raw", query),
        input=json.dumps({"documents": documents, "schema": SCHEMA}),
        capture_output=True,
        text=True,
        check=True,
    )
    return [errors for errors in json.loads(done.stdout) if errors]


def test_check_names_file_and_line_of_a_trap(tmp_path: Path) -> None:
    for path in (ROOT / "policies").glob("*.rego"):
        shutil.copy(path, tmp_path)
    (tmp_path / "extra.rego").write_text('package kairos.extra\n\nbad if not startswith(input.app.path, "/usr")\n')
    with pytest.raises(KairosError, match=r"extra\.rego:3: not startswith"):
        compile_bundle(tmp_path, ROOT / "policies/grants.json")


@settings(max_examples=12)
@given(st.lists(FLOWS, min_size=1, max_size=12))
def test_flow_inputs_are_as_the_schema_says(documents: list[dict[str, Any]]) -> None:
    assert mismatches(documents) == []


def test_the_schema_refuses_what_is_no_input() -> None:
    assert len(mismatches([{"point": "egress"}, {"point": "lunch"}])) == 2


def test_a_rule_that_reads_what_no_input_has_is_refused(tmp_path: Path) -> None:
    """It would be undefined, and a deny rule that is undefined denies nothing."""
    for path in (ROOT / "policies").glob("*.rego"):
        shutil.copy(path, tmp_path)
    with (tmp_path / "egress.rego").open("a") as file:
        file.write('\nquarantined if input.device.tag == "quarantine"\n')
    with pytest.raises(KairosError, match=r"input\.device\.tag"):
        compile_bundle(tmp_path, ROOT / "policies/grants.json")


@pytest.mark.parametrize(
    "condition",
    [
        'not startswith(input.app.path, "/usr")',
        'not net.cidr_contains("10.0.0.0/8", input.peer.ip)',
        "not input.posture.age < 90",
        "not count(input.peer.tags) == 0",
        'not "web" in input.peer.tags',
        'every tag in ["a"] { not tag in input.peer.tags }',
        'count([1 | not "web" in input.peer.tags]) == 1',
    ],
)
def test_a_negated_call_on_the_input_is_refused(condition: str) -> None:
    """With the field missing it is undefined, and a deny rule that is undefined denies nothing."""
    assert len(list(traps(parsed(condition)))) == 1


@pytest.mark.parametrize(
    "condition",
    [
        "not input.peer",
        'not input.proto == "tcp"',
        "not inside",
        "not data.kairos.flow.whole",
        "count(input.peer.tags) == 0",
    ],
)
def test_what_is_true_of_a_missing_field_is_not_refused(condition: str) -> None:
    assert list(traps(parsed(condition))) == []


def parsed(condition: str) -> Any:
    program = shutil.which("opa") or str(ROOT / ".tools/bin/opa")
    command = (program, "parse", "--format", "json", "--json-include", "locations", "/dev/stdin")
    text = f"package kairos.x\n\nruled if {{\n\t{condition}\n}}\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
