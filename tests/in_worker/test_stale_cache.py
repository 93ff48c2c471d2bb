"""KV is only a cache: one that is a minute behind, or answers with other bytes, lets nobody in and changes no policy."""

from __future__ import annotations

import asyncio
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from fabric_host import TENANT, FabricHost, client_of, push_policy
from kairos.api.problem import ProblemError
from kairos.api.session import Introspection, PolicyRecord, SessionGrant, SessionRequest
from kairos_node.state import Identity

SIZE = 4096


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def next_version(host: FabricHost) -> int:
    return 1 + max(
        (each["record"]["version"] for each in host.admin("GET", f"/{TENANT}/policy/versions")["items"]), default=0
    )


async def policy_of(identity: Identity) -> tuple[PolicyRecord, bytes]:
    async with client_of(identity) as client:
        record = await client.policy()
        return record, await client.policy_bundle(record.version)


async def session_of(identity: Identity) -> SessionGrant:
    async with client_of(identity) as client:
        return await client.open_session(SessionRequest({}))


def introspected(host: FabricHost, token: str, gateway: Identity) -> int:
    """The status with which the relay hears of this token."""
    request = urllib.request.Request(
        f"{host.operator.url}/internal/introspect/{TENANT}",
        data=msgspec.json.encode(Introspection(token, gateway.node)),
        headers={"Authorization": host.bearer("introspection"), "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextmanager
def cache_turned_back(host: FabricHost, folder: Path) -> Iterator[None]:
    """What KV holds now is what it holds again at the end."""
    kept, copy = host.fabric.state / "control/kv", folder / "kv"
    shutil.copytree(kept, copy)
    yield
    host.fabric.kill("control")
    shutil.rmtree(kept)
    shutil.copytree(copy, kept)
    host.fabric.restart("control")


def test_a_cache_from_before_a_revocation_and_a_push_lets_nothing_wrong_in(
    host: FabricHost, gateway: Identity, endpoint: Identity, disposable: Identity, tmp_path: Path
) -> None:
    version = next_version(host)
    push_policy(host, version, b"a" * SIZE)
    assert asyncio.run(policy_of(endpoint))[1] == b"a" * SIZE
    grant = asyncio.run(session_of(disposable))
    assert introspected(host, grant.token, gateway) == 200
    with cache_turned_back(host, tmp_path):
        push_policy(host, version + 1, b"b" * SIZE)
        assert asyncio.run(policy_of(endpoint))[1] == b"b" * SIZE
        host.admin("DELETE", f"/{TENANT}/devices/{disposable.node}")
        host.admin("POST", f"/{TENANT}/devices/{endpoint.node}/isolate", {"reason": "test"})
    assert introspected(host, grant.token, gateway) == 401
    with refused("revoked"):
        asyncio.run(session_of(disposable))
    with refused("isolated"):
        asyncio.run(session_of(endpoint))
    host.admin("POST", f"/{TENANT}/devices/{endpoint.node}/release", {"reason": "test"})
    record, bundle = asyncio.run(policy_of(endpoint))
    assert (record.version, bundle) == (version + 1, b"b" * SIZE)


def test_a_cache_that_answers_with_another_bundle_is_not_believed(host: FabricHost, endpoint: Identity) -> None:
    """KV gives back under the new key what it had under the old one."""
    version = next_version(host)
    old, new = b"c" * SIZE, b"d" * SIZE
    for number, bundle in enumerate((old, new)):
        push_policy(host, version + number, bundle)
        assert asyncio.run(policy_of(endpoint))[1] == bundle
    held = [
        path for path in (host.fabric.state / "control/kv").rglob("*") if path.is_file() and path.read_bytes() == new
    ]
    assert held
    for path in held:
        path.chmod(0o600)
        path.write_bytes(old)
    host.expect_fault(
        "KV_WRITE_INTERVAL_MS.*CACHE.put"
    )  # the right one is put in its place, within the second of the first
    assert asyncio.run(policy_of(endpoint))[1] == new
