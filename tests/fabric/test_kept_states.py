"""Today's fabric, in workerd, on the data of earlier revisions. The nodes' certificates have ended long ago; records and audit stay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabric_files import read, tenant_objects
from kept_states import ARCHIVES, KeptState, changes, unpacked

from fabric_host import FabricHost, Gatekeeper, client_of, default_provider
from kairos.api.session import SessionRequest
from kairos_cli.fabric import workspace
from kairos_cli.fabric.local import LocalFabric, address_of
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.steps import QUIET
from kairos_control.store.object_schema import MIGRATIONS
from kairos_node.enrollment import enroll
from kairos_node.state import NodeState
from overlay import wait_for
from typed_command import Kairos

_OF_THEIR_TIME = ("/telemetry", "/certificates")  # answers that leave out what has ended
_WAIT_S = 60.0


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KeptState:
    kept = unpacked(request.param, tmp_path_factory.mktemp("kept"))
    kept.move()
    return kept


@pytest.fixture(scope="module")
def host(kept: KeptState) -> Iterator[FabricHost]:
    operator = kept.operator
    workspace.prepare(QUIET)
    fabric = LocalFabric(operator, kept.state, *address_of(operator.url))
    fabric.start()
    try:
        yield FabricHost(operator, fabric)
    finally:
        fabric.stop()


@pytest.fixture
def kairos(host: FabricHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kairos:
    monkeypatch.setenv("KAIROS_FABRIC", str(host.operator.folder))
    monkeypatch.setenv("KAIROS_TENANT", "acme")
    return Kairos(capsys)


def test_every_record_is_what_it_was(host: FabricHost, kept: KeptState) -> None:
    for path, was in kept.facts["answers"].items():
        if path.startswith("/v1/tenants/") and not path.endswith((*_OF_THEIR_TIME, "/audit", "/audit/head")):
            now = host.admin("GET", path.removeprefix("/v1/tenants") + ("?limit=1000" if "items" in was else ""))
            assert not list(changes(was, now, path))
    for tenant, path in tenant_objects(kept.state).items():
        numbers = [number for (number,) in read(path, "SELECT number FROM schema_migrations ORDER BY number")]
        assert numbers == [each.number for each in MIGRATIONS], tenant


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_no_event_is_lost_and_every_head_verifies(
    host: FabricHost, kept: KeptState, kairos: Kairos, tenant: str, tmp_path: Path
) -> None:
    renewed(host, kairos)
    before = [each["id"] for each in kept.facts["answers"][f"/v1/tenants/{tenant}/audit"]["items"]]
    late = [*kept.facts["unsealed"], *kept.facts["on_the_way"]] if tenant == "acme" else []
    host.sweep(tenant)  # sends what was on its way to the queue again
    wait_for("every event", lambda: {*before, *late} <= set(listed(host, tenant)), _WAIT_S)
    host.sweep(tenant)
    folder = str(tmp_path / "log")
    kairos("audit", "export", folder, "--tenant", tenant)
    heads = [word for path in kept.heads(tenant) for word in ("--head", str(path))]
    report = kairos.json("audit", "verify", folder, *heads)
    assert report["findings"] == []
    assert len(report["agreeing"]) == len(kept.heads(tenant)) > 0
    lines = [line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.read_text().splitlines()]
    ids = [json.loads(line)["id"] for line in lines]
    assert len(ids) == len(set(ids))
    assert set(before) <= set(ids)
    assert [each for each in ids if each in set(late)] == late, "in the order in which they were taken"


def renewed(host: FabricHost, kairos: Kairos) -> None:
    """A new issuer signs what is sealed now: the kept one has ended when the archive is older than 90 days."""
    kairos("fabric", "renew")
    host.fabric.operator = Operator.load(host.operator.folder)
    host.fabric.kill("control")
    host.fabric.restart("control")


def listed(host: FabricHost, tenant: str) -> list[str]:
    items: list[Any] = []
    after = ""
    while True:
        page = host.admin("GET", f"/{tenant}/audit?limit=1000&after={after}")
        items += page["items"]
        after = page["next"]
        if not after:
            return [each["id"] for each in items]


def test_it_goes_on(host: FabricHost, kept: KeptState, kairos: Kairos, tmp_path: Path) -> None:
    """The tenant's gateways were away for longer than their certificates live, so the operator begins with a new one."""
    for name in ("gateway", "second"):
        kairos("device", "delete", kept.facts["nodes"][name])
    gateway = asyncio.run(host.first_gateway("acme", NodeState(tmp_path / "gateway"), default_provider()))
    with Gatekeeper(gateway, lambda _: ("allow", "")):
        token = str(host.token("acme", "endpoint"))
        endpoint = asyncio.run(enroll(token, NodeState(tmp_path / "new"), default_provider(), "new", lambda *_: None))

    async def opened() -> tuple[str, str]:
        async with client_of(endpoint) as client:
            first = await client.open_session(SessionRequest({}))
            return first.session, (await client.open_session(SessionRequest({}, first.session))).session

    first, renewed = asyncio.run(opened())
    assert first == renewed
    size = kairos.json("audit", "head")["size"]
    wait_for("a sealed event of it", lambda: sealed(host) and kairos.json("audit", "head")["size"] > size, _WAIT_S)


def sealed(host: FabricHost) -> bool:
    host.sweep("acme")
    return True
