"""Whatever is killed or stopped while events are recorded: none is missing, none is twice, each source's order holds, and the log verifies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from storm import Losses, Source, await_all, enrolled_sources, events_of, storm

from fabric_host import TENANT, FabricHost, running_fabric
from kairos.audit.event import Event
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.admin import AdminClient
from kairos_cli.audit_export import checker
from kairos_cli.audit_export import export as export_log
from typed_command import Kairos

EVENTS_EACH, FAULTS, SEED = 5000, 8, 20261125


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FabricHost]:
    with running_fabric(tmp_path / "fabric") as host:
        host.tenant(TENANT)
        yield host


@pytest.fixture
def sources(host: FabricHost, tmp_path: Path) -> Iterator[list[Source]]:
    with enrolled_sources(host, tmp_path, EVENTS_EACH) as (_, sources):
        yield sources


def test_a_storm_loses_nothing(
    host: FabricHost,
    sources: list[Source],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KAIROS_FABRIC", str(host.operator.folder))
    monkeypatch.setenv("KAIROS_TENANT", TENANT)
    kairos, folder, admin = Kairos(capsys), tmp_path / "export", AdminClient(host.operator)
    check = checker(parse_certificate_untrusted(host.operator.root_certificate))
    for source in sources:
        source.start()
    done = storm(host, sources, random.Random(SEED), FAULTS)

    def log() -> list[Event]:
        host.sweep(TENANT)
        export_log(admin, TENANT, folder, check)
        return [event for path in sorted(folder.glob("*.jsonl")) for event in events_of(path.read_bytes())]

    assert await_all(log, sources) == Losses(0, 0, 0), done
    report = kairos.json("audit", "verify", str(folder))
    assert report["findings"] == []
    assert report["proven"] == report["events"] >= 2 * EVENTS_EACH
