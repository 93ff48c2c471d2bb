"""One real fabric for all tests of this folder: tenant `acme` with a gateway and an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric_host import TENANT, FabricHost, Gatekeeper, default_provider, running_fabric
from kairos_node.enrollment import enroll
from kairos_node.state import Identity, NodeState


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    with running_fabric(tmp_path_factory.mktemp("fabric")) as host:
        host.tenant(TENANT)
        yield host


@pytest.fixture(scope="session")
def gateway(host: FabricHost, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return asyncio.run(host.first_gateway(TENANT, NodeState(tmp_path_factory.mktemp("gateway")), default_provider()))


@pytest.fixture(scope="session")
def endpoint(host: FabricHost, gateway: Identity, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return joined(host, gateway, NodeState(tmp_path_factory.mktemp("endpoint")))


@pytest.fixture
def disposable(host: FabricHost, gateway: Identity, tmp_path: Path) -> Identity:
    """An endpoint of one test, which may do with it what it likes."""
    return joined(host, gateway, NodeState(tmp_path))


def joined(host: FabricHost, gateway: Identity, state: NodeState) -> Identity:
    with Gatekeeper(gateway, lambda _: ("allow", "")):
        token = str(host.token(TENANT, "endpoint"))
        return asyncio.run(enroll(token, state, default_provider(), "laptop", lambda *_: None))
