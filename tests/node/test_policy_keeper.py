"""The last policy that was believed stays in force, whatever the fabric serves, and the audit hears of it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kairos.api.session import PolicyRecord
from kairos.audit.event import Event
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.identity import transcript
from kairos_cli.policy import shipped_bundle
from kairos_node.crypto import provider_named
from kairos_node.fabric import FabricClient
from kairos_node.policy import Choice
from kairos_node.policy_keeper import PolicyKeeper
from kairos_node.state import Identity, NodeState

PROVIDER = provider_named("cryptography")
KEY = PROVIDER.signing_key(KR1, bytes(32))
ASK = {"device": {"role": "gateway", "tags": []}}


class Fabric:
    """Serves what it likes."""

    def __init__(self) -> None:
        self.record = PolicyRecord("acme", 0, b"", b"")
        self.bundle = b""

    def serve(self, bundle: bytes, version: int, tenant: str = "acme", seed: bytes = bytes(32)) -> None:
        signed = transcript.policy_bundle(tenant, version, bundle)
        signature = PROVIDER.signing_key(KR1, seed).sign(signed, labels.POLICY_BUNDLE)
        self.record = PolicyRecord(tenant, version, hashlib.sha384(bundle).digest(), signature)
        self.bundle = bundle

    async def policy(self) -> PolicyRecord:
        return self.record

    async def policy_bundle(self, version: int) -> bytes:
        return self.bundle


class Node:
    def __init__(self, folder: Path, fabric: Fabric, engine: Choice | None = None) -> None:
        self.events: list[Event] = []
        self.changes = 0
        join = SimpleNamespace(tenant="acme")
        identity = SimpleNamespace(node="gw-a", join=join, suite=KR1, policy_key=KEY.public_key)
        self.keeper = PolicyKeeper(
            NodeState(folder),
            cast(Identity, identity),
            PROVIDER,
            cast(FabricClient, fabric),
            self._changed,
            self.events.append,
            engine or Choice(),
        )

    def _changed(self) -> None:
        self.changes += 1

    def refresh(self) -> None:
        asyncio.run(self.keeper.refresh())

    @property
    def alarms(self) -> list[str]:
        return [event.reason for event in self.events if event.kind == "policy.refused"]


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return shipped_bundle()


def test_nothing_is_allowed_before_a_policy_is_there(tmp_path: Path) -> None:
    assert Node(tmp_path, Fabric()).keeper.decide("admission", ASK).rule == "deny:no-policy"


def test_a_newer_policy_comes_into_force_once_and_outlives_the_process(tmp_path: Path, bundle: bytes) -> None:
    fabric = Fabric()
    fabric.serve(bundle, 3)
    node = Node(tmp_path, fabric)
    node.refresh()
    node.refresh()
    assert (node.keeper.version, node.changes) == (3, 1)
    assert [event.kind for event in node.events] == ["policy.enforced"]
    again = Node(tmp_path, Fabric())
    asyncio.run(again.keeper.restore())
    assert again.keeper.version == 3
    assert again.keeper.decide("admission", ASK).hold


@pytest.mark.parametrize(
    ("version", "tenant", "seed", "altered", "says"),
    [
        (2, "acme", bytes(32), False, "not newer"),
        (4, "rival", bytes(32), False, "tenant rival"),
        (4, "acme", bytes(range(32)), False, "not signed"),
        (4, "acme", bytes(32), True, "not those that were signed"),
    ],
    ids=["older", "foreign", "unsigned", "altered"],
)
def test_whatever_else_is_served_changes_nothing_and_raises_an_alarm(
    tmp_path: Path, bundle: bytes, version: int, tenant: str, seed: bytes, altered: bool, says: str
) -> None:
    fabric = Fabric()
    fabric.serve(bundle, 3)
    node = Node(tmp_path, fabric)
    node.refresh()
    fabric.serve(bundle, version, tenant, seed)
    if altered:
        fabric.bundle = bundle[:-1] + bytes([bundle[-1] ^ 1])
    node.refresh()
    assert (node.keeper.version, node.changes) == (3, 1)
    assert node.keeper.decide("admission", ASK).hold
    (alarm,) = node.alarms
    assert says in alarm


def test_a_signed_bundle_that_is_no_policy_is_refused_too(tmp_path: Path, bundle: bytes) -> None:
    fabric = Fabric()
    fabric.serve(bundle, 1)
    node = Node(tmp_path, fabric)
    node.refresh()
    fabric.serve(b"nonsense", 2)
    node.refresh()
    assert node.keeper.version == 1
    assert len(node.alarms) == 1


def test_a_damaged_store_is_no_policy(tmp_path: Path, bundle: bytes) -> None:
    fabric = Fabric()
    fabric.serve(bundle, 1)
    Node(tmp_path, fabric).refresh()
    for path in tmp_path.rglob("*policy*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-20])
    node = Node(tmp_path, Fabric())
    asyncio.run(node.keeper.restore())
    assert node.keeper.decide("admission", ASK).rule == "deny:no-policy"
