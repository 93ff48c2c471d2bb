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
    app=st.none() | st.builds(Application, path=st.text(max_size=8), uid=st.integers(0, 99), unit=st.text(max_size=8)),
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


@settings(max_examples=12, deadline=None)
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
