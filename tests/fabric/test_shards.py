"""A fabric of two databases in workerd: tenants in both, and a move from one to the other."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest

from fabric_host import default_provider, running_fabric
from kairos_cli.fabric import plan
from kairos_cli.fabric.settings import Worker
from kairos_node.state import NodeState


def test_a_tenant_is_moved_with_all_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration_of = plan._configuration

    def with_another(root: Path, worker: Worker) -> dict[str, Any]:
        configuration = copy.deepcopy(configuration_of(root, worker))
        for each in configuration.get("d1_databases", [])[:1]:
            another = {"binding": "DB_1", "database_name": "kairos-1", "database_id": "another"}
            configuration["d1_databases"].append(each | another)
        return configuration

    monkeypatch.setattr(plan, "_configuration", with_another)
    with running_fabric(tmp_path / "fabric") as host:
        host.tenant("acme")
        host.tenant("rival")
        assert {each["tenant"]: each.get("shard", "DB") for each in host.admin("GET", "")["items"]} == {
            "acme": "DB", "rival": "DB_1"
        }  # fmt: skip
        asyncio.run(host.first_gateway("acme", NodeState(tmp_path / "gateway"), default_provider()))
        host.sweep("acme")
        lists = ("devices", "tokens", "certificates", "gateways", "vnis")
        before = {name: host.admin("GET", f"/acme/{name}")["items"] for name in lists}
        assert before["devices"]
        moved = host.admin("POST", "/acme/move", {"shard": "DB_1"})
        assert (moved["shard"], moved.get("moving_to", "")) == ("DB_1", "")
        assert {name: host.admin("GET", f"/acme/{name}")["items"] for name in lists} == before
        kinds = {event["kind"] for event in host.admin("GET", "/acme/audit?limit=1000")["items"]}
        assert {"tenant.created", "certificate.issued", "tenant.moving", "tenant.moved"} <= kinds
        host.admin("POST", "/acme/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
        host.sweep("acme")
        devices = host.admin("GET", "/acme/devices")["items"]
        back = host.admin("POST", "/acme/move", {"shard": "DB"})
        assert (back.get("shard", "DB"), back.get("moving_to", "")) == ("DB", "")
        assert host.admin("GET", "/acme/devices")["items"] == devices
        host.admin("DELETE", "/rival")
