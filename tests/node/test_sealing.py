"""Keys that are sealed on disk, by a credential as systemd hands it over."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kairos.errors import BadMessage, Refused
from kairos_node.sealing import CREDENTIAL
from kairos_node.state import Join, Keys, NodeState

JOIN = Join("http://f", "kairos.test", "KR1", "acme", "endpoint", "t1", bytes(32), bytes(32), "laptop")
SEED = b"seed of 32 bytes that are known."


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeState:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    made = NodeState(tmp_path / "state")
    made.begin(JOIN, SEED)
    return made


def hand_over(folder: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / CREDENTIAL).write_bytes(key)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))


def on_disk(state: NodeState) -> bytes:
    return b"".join(path.read_bytes() for path in state.directory.iterdir() if path.is_file())


def test_the_first_start_with_a_credential_seals_and_no_later_write_does_not(
    state: NodeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = base64.b64encode(SEED)[:40]
    assert plain in on_disk(state)
    hand_over(tmp_path / "credentials", os.urandom(32), monkeypatch)
    with state.locked():
        assert b"sealed" in (state.directory / "identity.json").read_bytes()
        assert NodeState(state.directory).keys == Keys(SEED)
        rotating = Keys(SEED, b"certificate", b"another seed with its thirty two")
        state.keep_keys(rotating)
        assert NodeState(state.directory).keys == rotating
    assert plain not in on_disk(state)


def test_without_the_credential_nothing_starts(
    state: NodeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over(tmp_path / "credentials", os.urandom(32), monkeypatch)
    with state.locked():
        pass
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(Refused) as refusal:
        _ = state.keys
    assert refusal.value.code == "sealed"
    hand_over(tmp_path / "others", os.urandom(32), monkeypatch)
    with pytest.raises(Refused, match="another"):
        _ = state.keys
    hand_over(tmp_path / "short", b"short", monkeypatch)
    with pytest.raises(Refused, match="5 bytes"):
        _ = state.keys


@pytest.mark.parametrize("damaged", [b'{"sealed":', b'{"sealed":7}', b'{"sealed":""}', b'{"sealed":"AAAA","seed":""}'])
def test_a_damaged_file_is_refused(
    state: NodeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    hand_over(tmp_path / "credentials", os.urandom(32), monkeypatch)
    (state.directory / "identity.json").write_bytes(damaged)
    with pytest.raises((Refused, BadMessage)):
        _ = state.keys


@pytest.mark.skipif(shutil.which("systemd-creds") is None, reason="systemd-creds is not installed")
def test_the_command_of_the_manual_makes_a_credential_that_systemd_reads_again(tmp_path: Path) -> None:
    """With a null key, for this machine has no TPM that is its own: what differs is who may decrypt it."""
    key, sealed = os.urandom(32), tmp_path / "kairos.seal"
    command = ("systemd-creds", "encrypt", f"--name={CREDENTIAL}", "--with-key=tpm2-absent", "-", str(sealed))
    subprocess.run(command, input=key, check=True, capture_output=True)
    read = subprocess.run(
        ("systemd-creds", "decrypt", f"--name={CREDENTIAL}", str(sealed), "-"), check=True, capture_output=True
    )
    assert read.stdout == key


def test_the_tls_group_is_chosen_before_sealed_keys_are_read(
    state: NodeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL reads its configuration once, when it is loaded, and to unseal takes OpenSSL."""
    hand_over(tmp_path / "credentials", os.urandom(32), monkeypatch)
    monkeypatch.delenv("OPENSSL_CONF", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    state.keep_keys(Keys(SEED, b"certificate"))
    script = """
import sys
from pathlib import Path
from kairos_node.start import prepare
print(prepare(Path(sys.argv[1]), "endpoint").keys.seed)
"""
    done = subprocess.run(
        (sys.executable, "-c", script, str(state.directory)), capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{SEED!r}\n", done.stderr
