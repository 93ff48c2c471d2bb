"""The state directory: closed to others, whole after a kill, one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import fill, small_disk

from issued import DOMAIN, Authority
from kairos.api.enrollment import FabricInfo
from kairos.api.session import Network, PolicyRecord
from kairos.crypto.provider import Provider
from kairos.errors import BadMessage, Refused
from kairos.identity.transcript import fingerprint
from kairos_node.state import Join, Keys, NodeState

JOIN = Join("http://f", DOMAIN, "KR1", "acme", "endpoint", "t1", bytes(32), bytes(32), "laptop")


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    return NodeState(tmp_path / "state")


def test_it_is_closed_to_others(state: NodeState) -> None:
    before = os.umask(0)
    try:
        state.begin(JOIN, bytes(32))
    finally:
        os.umask(before)
    assert state.directory.stat().st_mode & 0o777 == 0o700
    for path in state.directory.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_was_kept_is_there_again(state: NodeState) -> None:
    state.begin(JOIN, b"s" * 32)
    network, record = Network(3, [], [], [], ["ep-lost"]), PolicyRecord("acme", 2, b"d", b"s")
    state.keep_network(network)
    state.keep_policy(record, b"bundle")
    again = NodeState(state.directory)
    assert (again.join, again.keys) == (JOIN, Keys(b"s" * 32))
    assert (again.network, again.policy) == (network, (record, b"bundle"))


def test_a_revocation_is_never_forgotten(state: NodeState) -> None:
    state.create()
    state.keep_network(Network(1, [], [], [], ["ep-lost"]))
    state.keep_network(Network(2, [], [], [], []))
    state.revoke(["ep-stolen"])
    assert NodeState(state.directory).revoked == {"ep-lost", "ep-stolen"}


def test_another_join_forgets_what_the_old_fabric_said(state: NodeState) -> None:
    state.begin(JOIN, bytes(32))
    state.keep_network(Network(1, [], [], [], ["ep-lost"]))
    state.begin(JOIN, bytes(32))
    assert (state.network, state.revoked) == (None, frozenset())


def test_an_identity_from_disk(state: NodeState, authority: Authority, provider: Provider) -> None:
    with pytest.raises(Refused, match="kairos agent enroll") as refusal:
        state.identity(provider, authority.now)
    assert refusal.value.code == "not-enrolled"
    own, trust = authority.issue("ep-a"), authority.trust
    pins = {"root_fingerprint": fingerprint(trust.root.der)}
    state.begin(Join(**{**{name: getattr(JOIN, name) for name in JOIN.__struct_fields__}, **pins}), own.seed)
    state.keep_fabric(FabricInfo("1", "KR1", DOMAIN, "http://r", trust.root.der, trust.issuer.der, b"policy"))
    state.keep_keys(Keys(own.seed, own.certificate))
    identity = state.identity(provider, authority.now)
    assert (identity.node, identity.key.public_key) == ("ep-a", identity.certificate.public_key)
    assert "seed" not in repr(identity)
    assert repr(own.seed) not in repr(state.keys)


@pytest.mark.parametrize("damaged", [b'{"seed":', b'{"seed":"\xff"}', b"[" * 5_000])
def test_a_damaged_file_is_named(state: NodeState, damaged: bytes) -> None:
    state.begin(JOIN, bytes(32))
    (state.directory / "identity.json").write_bytes(damaged)
    with pytest.raises(BadMessage, match=r"identity\.json is damaged"):
        _ = state.keys


def test_one_process_at_a_time_and_a_killed_one_frees_it(state: NodeState) -> None:
    program = """
import sys, pathlib
from kairos_node.state import NodeState
with NodeState(pathlib.Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    command = (sys.executable, "-c", program, str(state.directory))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(Refused) as refusal, state.locked():
            pass
        assert refusal.value.code == "state-busy"
        holder.send_signal(signal.SIGKILL)
    with state.locked():
        pass


def test_a_kill_in_the_middle_of_writing_leaves_the_old_or_the_new(state: NodeState) -> None:
    program = """
import sys, pathlib
from kairos_node.state import NodeState, Keys
state = NodeState(pathlib.Path(sys.argv[1]))
print("writing", flush=True)
while True:
    for letter in (b"a", b"b"):
        state.keep_keys(Keys(letter * 32, letter * 50_000))
"""
    state.create()
    for _ in range(5):
        command = (sys.executable, "-c", program, str(state.directory))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
            while state.keys is None:
                assert writer.poll() is None
            writer.kill()
        keys = state.keys
        assert keys is not None
        assert {keys.seed[:1]} == {keys.certificate[i : i + 1] for i in range(0, 50_000, 997)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def test_a_full_disk_ends_nothing_and_loses_nothing_that_the_fabric_said(disk: Path) -> None:
    state = NodeState(disk / "state")
    state.begin(JOIN, b"s" * 32)
    state.keep_network(Network(1, [], [], [], []))
    ballast = fill(disk)
    later, record = Network(2, [], [], [], ["ep-lost"]), PolicyRecord("acme", 2, b"d", b"s")
    state.keep_network(later)
    state.keep_policy(record, bytes(10_000))
    assert (state.network, state.policy) == (later, (record, bytes(10_000)))
    assert state.revoked == {"ep-lost"}
    assert state.unwritten == ["network.json", "policy.json", "revoked.json"]
    assert NodeState(state.directory).network == Network(1, [], [], [], [])
    ballast.unlink()
    state.write_again()
    assert state.unwritten == []
    again = NodeState(state.directory)
    assert (again.network, again.policy) == (later, (record, bytes(10_000)))
    assert again.revoked == {"ep-lost"}


def test_a_disk_without_room_keeps_the_keys_that_it_has(disk: Path) -> None:
    state = NodeState(disk / "state")
    state.begin(JOIN, b"s" * 32)
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        state.keep_keys(Keys(b"s" * 32, b"", b"n" * 32))
    assert state.keys == NodeState(state.directory).keys == Keys(b"s" * 32)
    state.keep_certificate(
        FabricInfo("1", "KR1", DOMAIN, "http://r", b"", b"", b""), Keys(b"s" * 32, bytes(5_000))
    )  # for the same seed: it counts meanwhile
    assert state.keys == Keys(b"s" * 32, bytes(5_000))
    assert NodeState(state.directory).keys == Keys(b"s" * 32)
    assert state.unwritten == ["fabric.json", "identity.json"]


def test_a_read_only_disk_ends_nothing(disk: Path) -> None:
    state = NodeState(disk / "state")
    state.begin(JOIN, b"s" * 32)
    subprocess.run(("mount", "-o", "remount,ro", disk), check=True)
    state.revoke(["ep-lost"])
    assert state.revoked == {"ep-lost"}
    subprocess.run(("mount", "-o", "remount,rw", disk), check=True)
    state.keep_network(Network(1, [], [], [], []))
    assert NodeState(state.directory).revoked == {"ep-lost"}


@pytest.mark.parametrize("name", ["identity.json", "bundle-7.tar.gz", "audit-head.json"])
def test_what_a_killed_write_left_is_removed_at_the_next_start(state: NodeState, name: str) -> None:
    state.begin(JOIN, b"s" * 32)
    left, kept = state.directory / f".{name}.0123abcd", state.directory / ".of-somebody-else"
    for path in (left, kept):
        path.write_bytes(b"seed")
    with state.locked():
        assert not left.exists()
    assert kept.exists()
    assert state.keys == Keys(b"s" * 32)
