"""A rotation on a running fabric: both values are good until it is finished, then only the new one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fabric_host import free_ports
from kairos.deployment import internal_key
from kairos_cli.fabric.init import create
from kairos_cli.fabric.local import LocalFabric, address_of
from kairos_cli.fabric.operator import Operator
from kairos_cli.main import main

FOREIGN = "only the fabric's own Workers may call this"


def detail(url: str, bearer: str, method: str = "GET", body: bytes | None = None) -> str:
    """What the fabric refuses the call for; empty if it does not."""
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    try:
        urllib.request.urlopen(
            urllib.request.Request(url, method=method, headers=headers, data=body), timeout=20
        ).close()
    except urllib.error.HTTPError as error:
        with error:
            return str(json.loads(error.read()).get("detail"))
    return ""


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    port = free_ports("127.0.0.1")
    url, relay_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    return create(tmp_path / "fabric", "KR1", "kairos.test", url, relay_url)


def accepted(operator: Operator, credentials: tuple[str, ...], keys: tuple[str, ...]) -> tuple[list[bool], list[bool]]:
    """Starts the fabric as its directory is now; which root credentials and which relay keys it takes."""
    now = Operator.load(operator.folder)
    host, port = address_of(now.url)
    fabric = LocalFabric(now, now.state, host, port)
    fabric.start()
    try:
        detail(f"{now.url}/v1/tenants", now.admin_token, "POST", b'{"tenant":"acme"}')
        body = b'{"token":"acme.none","gateway":"gw-zqkx3m5s6tvbw2pa"}'
        url = f"{now.url}/internal/introspect/acme"
        return (
            [detail(f"{now.url}/v1/tenants", each) == "" for each in credentials],
            [detail(url, internal_key(each, "introspection"), "POST", body) != FOREIGN for each in keys],
        )
    finally:
        fabric.stop()


def test_both_are_good_until_the_rotation_is_finished(operator: Operator) -> None:
    folder = ("--dir", str(operator.folder))
    before = (operator.admin_token, operator.internal_key)
    for what in ("root-credential", "internal-key"):
        assert main(["fabric", "rotate", what, *folder]) == 0
    rotated = Operator.load(operator.folder)
    after = (rotated.admin_token, rotated.internal_key)
    assert main(["fabric", "rotate", "internal-key", *folder]) == 0  # a second begin changes nothing
    assert Operator.load(operator.folder).internal_key == after[1]
    credentials, keys = (before[0], after[0], "kairos-admin-none"), (before[1], after[1], "none")
    assert accepted(operator, credentials, keys) == ([True, True, False], [True, True, False])
    for what in ("root-credential", "internal-key"):
        assert main(["fabric", "rotate", what, "--finish", *folder]) == 0
    assert accepted(operator, credentials, keys) == ([False, True, False], [False, True, False])
    assert main(["fabric", "rotate", "internal-key", "--finish", *folder]) == 1
