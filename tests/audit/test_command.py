"""`kairos audit ...` as typed, against a real fabric and then without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric_host import TENANT, FabricHost, running_fabric
from overlay import wait_for
from typed_command import Kairos


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    with running_fabric(tmp_path_factory.mktemp("audit") / "fabric") as running:
        running.tenant(TENANT)
        yield running


@pytest.fixture
def kairos(host: FabricHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kairos:
    monkeypatch.setenv("KAIROS_FABRIC", str(host.operator.folder))
    monkeypatch.setenv("KAIROS_TENANT", TENANT)
    return Kairos(capsys)


def sealed(host: FabricHost, label: str) -> str:
    """Makes a token, awaits its event out of the queue and has it sealed, as the cron would. Returns the event's id."""
    wanted = {"role": "endpoint", "secret_hash": "A" * 43 + "=", "label": label}
    made = host.admin("POST", f"/{TENANT}/tokens", wanted)["token_id"]
    listed = wait_for(
        "the event",
        lambda: [
            str(each["id"])
            for each in host.admin("GET", f"/{TENANT}/audit?kind=token")["items"]
            if each["subject"] == made
        ],
    )
    host.sweep(TENANT)
    event: str = listed[0]
    return event


@pytest.fixture(scope="module")
def event(host: FabricHost) -> str:
    return sealed(host, "first")


@pytest.fixture
def folder(kairos: Kairos, event: str, tmp_path: Path) -> Path:
    """An export."""
    kairos("audit", "export", str(tmp_path / "log"))
    return tmp_path / "log"


def test_an_event_is_proven(kairos: Kairos, event: str) -> None:
    assert event in kairos("audit", "prove", event)
    assert kairos.json("audit", "prove", event)["position"] >= 0
    assert "no such event" in kairos.fails("audit", "prove", "0" * 32)[1]


def test_heads_follow_each_other(kairos: Kairos, host: FabricHost, event: str) -> None:
    assert kairos.json("audit", "head")["tenant"] == TENANT
    kept = host.operator.folder / "audit" / f"{TENANT}.head.json"
    assert "goes on from" in kairos("audit", "head")
    forged = json.loads(kept.read_text())
    forged["root"] = "A" * 43 + "="
    kept.write_text(json.dumps(forged))
    assert "does not begin with" in kairos.fails("audit", "head")[1]
    kept.unlink()


def test_an_export_is_proven_and_grows(kairos: Kairos, host: FabricHost, folder: Path) -> None:
    said = kairos("audit", "verify", str(folder))
    assert "none edited, removed, inserted or reordered" in said
    assert "not proven" in said
    before = Path(shutil.copy(folder / "head.json", folder.parent / "kept.json"))
    sealed(host, "second")
    kairos("audit", "export", str(folder))
    report = kairos.json("audit", "verify", str(folder), "--head", str(before))
    assert report["findings"] == []
    assert report["proven"] == report["events"] > json.loads(before.read_text())["size"]
    assert [each["size"] for each in report["agreeing"]] == [json.loads(before.read_text())["size"]]


def test_an_edit_is_named_with_its_place(kairos: Kairos, folder: Path) -> None:
    segment = folder / f"{0:015}.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"root"', b'"somebody"')
    segment.write_bytes(b"".join(lines))
    said, failure = kairos.fails("audit", "verify", str(folder))
    assert "edited       event 1 is not the one that was recorded" in said
    assert "event 1" in failure


def test_a_cut_export_is_named(kairos: Kairos, folder: Path) -> None:
    last = max(folder.glob("[0-9]*.head.json"))
    for path in folder.glob(f"{last.name.split('.')[0]}.*"):
        path.unlink()
    assert "truncated" in kairos.fails("audit", "verify", str(folder))[0]


def test_another_root_certifies_nothing(kairos: Kairos, host: FabricHost, folder: Path, tmp_path: Path) -> None:
    other = ("--dir", str(tmp_path / "other"), "--trust-domain", host.operator.trust_domain)
    kairos("fabric", "init", *other)
    said, failure = kairos.fails("audit", "verify", str(folder), "--root", str(tmp_path / "other/root.der"))
    assert "bad-head" in said
    assert "signature" in failure
    assert "--root" in kairos.fails("audit", "verify", str(folder), "--root", str(tmp_path / "none"))[1]
    assert "audit export" in kairos.fails("audit", "verify", str(tmp_path))[1]


def test_the_record_is_searched(kairos: Kairos, event: str) -> None:
    found = kairos.json("audit", "search", "--kind", "token.", "--actor", "root", "--since", "1h")
    assert event in [each["id"] for each in found]
    assert kairos.json("audit", "search", "--kind", "token.", "--until", "1h") == []
    assert [each["id"] for each in kairos.json("audit", "search", "--text", event)] == [event]
    assert "TOKEN.CREATED" in kairos("audit", "search", "--kind", "token").upper()
    assert "as in 90s" in kairos.fails("audit", "search", "--since", "yesterday")[1]
    assert "no device named" in kairos.fails("audit", "search", "--device", "nobody")[1]


def test_an_export_for_a_siem_grows_too(kairos: Kairos, folder: Path) -> None:
    said = kairos("audit", "export", str(folder), "--format", "ocsf")
    lines = [line for path in folder.glob("ocsf/*.jsonl") for line in path.read_text().splitlines()]
    assert f"{len(lines)} new records" in said
    assert 3004 in {json.loads(line)["class_uid"] for line in lines}
    assert "0 new records" in kairos("audit", "export", str(folder), "--format", "ocsf")
    assert kairos.json("audit", "verify", str(folder))["findings"] == []


def test_without_flows_both_ends_agree(kairos: Kairos, event: str) -> None:
    assert "both ends agree" in kairos("audit", "reconcile", "--since", "10m")


def test_retention_is_shown_and_set(kairos: Kairos, event: str) -> None:
    assert kairos("audit", "retention").split() == ["kept", "for", "ever"]
    assert kairos.json("audit", "retention", "90")["days"] == 90
    assert "90 days" in kairos("audit", "retention")
    assert "days: 1 to 3650" in kairos.fails("audit", "retention", "9999")[1]


def test_the_tail_goes_on(host: FabricHost, event: str) -> None:
    """Old events first, then those that come; Ctrl-C ends it without a word."""
    command = [sys.executable, "-m", "kairos_cli.main", "audit", "tail", "--kind", "token", "--json", "--limit", "1"]
    environment = {**os.environ, "KAIROS_FABRIC": str(host.operator.folder), "KAIROS_TENANT": TENANT}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        old = json.loads(tail.stdout.readline())
        made = host.admin(
            "POST", f"/{TENANT}/tokens", {"role": "endpoint", "secret_hash": "A" * 43 + "=", "label": "tailed"}
        )
        new = json.loads(tail.stdout.readline())
        tail.send_signal(2)
        assert tail.wait(20) == 130
        assert tail.stderr.read() == ""
    assert old["kind"].startswith("token")
    assert new["subject"] == made["token_id"]


def test_verification_needs_no_fabric(kairos: Kairos, host: FabricHost, folder: Path) -> None:
    """The last test of this file: the fabric is gone."""
    root = shutil.copy(host.operator.folder / "root.der", folder.parent / "root.der")
    host.fabric.stop()
    nowhere = str(folder.parent / "no-operator")
    assert "proven" in kairos("audit", "verify", str(folder), "--root", str(root), "--dir", nowhere)
