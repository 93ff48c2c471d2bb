"""A fabric of eight nodes, or of fifty (`./dev nightly`), is upgraded from the revision before schemas had versions while traffic flows;
and nodes of either code work with a fabric of the other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabric_files import read, tenant_objects
from revisions import UNVERSIONED, NotInHistory, checkout
from upgrade_rig import SESSION_LIFE_S, TODAY, WAIT_S, Upgrade, before_upgrade

from effort import effort
from overlay import GRANTS, TENANT, wait_for
from typed_command import Kairos

NODES = effort(8, nightly=50)
ENDPOINTS = {"alice": "auto", "bob": "relay", "carol": "auto"}
LATER = ("newcomer", "latecomer")
CROWD = NODES - len(ENDPOINTS) - 2  # beside the gateway and the newcomer


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrade]:
    folder = tmp_path_factory.mktemp("upgrade")
    try:
        earlier = checkout(UNVERSIONED, folder / "tree")
    except NotInHistory as error:
        pytest.skip(str(error))
    with before_upgrade(folder, earlier, ENDPOINTS, LATER, CROWD) as upgrade:
        yield upgrade


@pytest.fixture
def kairos(upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kairos:
    monkeypatch.setenv("KAIROS_FABRIC", str(upgrade.fabric.operator.folder))
    monkeypatch.setenv("KAIROS_TENANT", TENANT)
    return Kairos(capsys)


def is_cut_off_and_comes_back(upgrade: Upgrade, name: str) -> None:
    """Isolation of an endpoint, felt by its traffic and signed by the gateway, and the end of it."""
    host, gateway = upgrade.host(name), upgrade.host("gateway")
    address, device = upgrade.await_traffic(name), f"/{TENANT}/devices/{host.node}"
    upgrade.fabric.admin("POST", f"{device}/isolate", {"reason": "a test"})
    wait_for("the gateway's receipt", lambda: gateway.node in receipts(upgrade, device), WAIT_S)
    assert not host.reaches(address)
    upgrade.fabric.admin("POST", f"{device}/release", {"reason": "a test"})
    upgrade.await_traffic(name)


def receipts(upgrade: Upgrade, device: str) -> set[str]:
    return {each["point"] for each in upgrade.fabric.admin("GET", f"{device}/isolation").get("receipts", ())}


def ends_of_sessions(upgrade: Upgrade) -> dict[str, int]:
    path = tenant_objects(upgrade.fabric.fabric.state)[TENANT]
    return dict(read(path, "SELECT session, expires_at FROM sessions"))


def test_a_node_of_today_works_with_the_fabric_before(upgrade: Upgrade) -> None:
    newcomer = upgrade.join("newcomer", TODAY)
    assert newcomer.status()["policy_version"] == 1
    is_cut_off_and_comes_back(upgrade, "newcomer")


def test_established_tunnels_lose_nothing_while_the_control_plane_is_replaced(upgrade: Upgrade) -> None:
    for name, to in (("alice", "gateway"), ("bob", "gateway"), ("carol", "alice"), ("newcomer", "gateway")):
        upgrade.ping(name, to)
    for name in ("alice", "carol", "newcomer"):
        upgrade.await_direct(name)
    assert upgrade.host("bob").tunnel()["path"] == "relay"
    sessions = {name: upgrade.host(name).tunnel()["session"] for name in ("alice", "bob", "carol", "newcomer")}
    crowd = upgrade.crowd.await_connected()
    upgrade.keep_head()
    upgrade.replace("control")
    replaced_at = time.time()
    after = upgrade.crowd.asked("renew")
    assert (after["sessions"], after["endings"]) == (crowd["sessions"], 0)
    assert after["renewals"] >= crowd["renewals"] + CROWD
    upgrade.crowd.await_connected()
    wait_for(
        "every session to be renewed",
        lambda: all(
            ends_of_sessions(upgrade).get(each, 0) > replaced_at + SESSION_LIFE_S for each in sessions.values()
        ),
        SESSION_LIFE_S,
    )
    for name, ping in upgrade.pings.items():
        ping.await_answer()
        assert ping.lost == [], name
    assert {name: upgrade.host(name).tunnel()["session"] for name in sessions} == sessions
    upgrade.keep_head()


def test_direct_paths_lose_nothing_while_the_relay_is_replaced(upgrade: Upgrade) -> None:
    """A tunnel on the relay is made again: its sockets end with the process that held them."""
    upgrade.replace("relay")
    for name, ping in upgrade.pings.items():
        ping.await_answer()
        assert name == "bob" or ping.lost == [], name
    assert upgrade.host("bob").tunnel()["path"] == "relay"


def test_nodes_of_the_code_before_work_with_the_fabric_of_today(upgrade: Upgrade, kairos: Kairos) -> None:
    upgrade.join("latecomer", upgrade.earlier)
    grants = upgrade.folder / "more.json"
    grants.write_text(
        json.dumps({**GRANTS, "deny": [{"id": "no-ssh", "from": ["*"], "to": ["*"], "ports": ["tcp/22"]}]})
    )
    kairos("policy", "push", "--data", str(grants))
    for name in ("gateway", "alice", "latecomer", "newcomer"):
        upgrade.await_policy(name, 2)
    is_cut_off_and_comes_back(upgrade, "latecomer")


def test_a_gateway_of_today_serves_endpoints_of_the_code_before(upgrade: Upgrade) -> None:
    gateway = upgrade.host("gateway")
    gateway.stop()
    gateway.environment = TODAY.environment
    gateway.start()
    for name in ("alice", "bob", "latecomer", "newcomer"):
        upgrade.await_traffic(name)


def test_no_event_is_lost_and_every_head_verifies(upgrade: Upgrade, kairos: Kairos, tmp_path: Path) -> None:
    taken = upgrade.crowd.finish()["taken"]
    assert len(taken) > CROWD

    def logged() -> list[str]:
        upgrade.fabric.sweep(TENANT)
        upgrade.keep_head()
        kairos("audit", "export", str(tmp_path / "log"))
        lines = [line for path in (tmp_path / "log").glob("*.jsonl") for line in path.read_text().splitlines()]
        return [json.loads(line)["id"] for line in lines]

    wait_for("every event", lambda: set(taken) <= set(logged()), 2 * WAIT_S)
    ids = logged()
    assert len(ids) == len(set(ids))
    heads = sorted(upgrade.folder.glob("head-*.json"))
    words = [word for path in heads for word in ("--head", str(path))]
    report = kairos.json("audit", "verify", str(tmp_path / "log"), *words)
    assert report["findings"] == []
    assert len(report["agreeing"]) == len(heads)
    for host in (*upgrade.overlay.hosts, *upgrade.overlay.others):
        assert not (host.state.directory / "audit-conflict.json").exists(), host.name
