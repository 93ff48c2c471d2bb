"""The operator's offline seeds behind a passphrase."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kairos.errors import KairosError
from kairos_cli.fabric import sealed_seed
from kairos_cli.fabric.operator import Operator, seed
from kairos_cli.fabric.sealed_seed import is_sealed, seal, unseal
from kairos_cli.main import main

PASSPHRASE = "correct horse battery"
SEED = bytes(range(32))


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each seed is for attackers."""
    monkeypatch.setattr(sealed_seed, "_LOG2_N", 10)
    sealed_seed.passphrase.cache_clear()


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    monkeypatch.setenv("KAIROS_PASSPHRASE_FILE", str(path))
    return path


def init(folder: Path, *options: str) -> int:
    return main(["fabric", "init", "--dir", str(folder), *options])


def test_what_was_sealed_is_unsealed_by_its_passphrase_alone() -> None:
    text = seal(SEED, "root", PASSPHRASE).decode()
    assert is_sealed(text)
    assert unseal(text, "root", PASSPHRASE) == SEED
    assert seal(SEED, "root", PASSPHRASE).decode() != text
    for name, passphrase in (("root", PASSPHRASE + "!"), ("root", ""), ("policy", PASSPHRASE)):
        with pytest.raises(KairosError, match="wrong"):
            unseal(text, name, passphrase)


@pytest.mark.parametrize("place", range(4))
def test_a_damaged_file_is_refused(place: int) -> None:
    words = seal(SEED, "root", PASSPHRASE).decode().split()
    for value in ("", "99", "AAAA", "=", words[place][:-1] + ("A" if words[place][-1] != "A" else "B")):
        if place == 0 or value == words[place]:
            continue
        with pytest.raises((KairosError, ValueError)):
            unseal(" ".join([*words[:place], value, *words[place + 1 :]]), "root", PASSPHRASE)


def test_a_fabric_with_a_passphrase_has_no_seed_in_the_clear(tmp_path: Path, given: Path) -> None:
    folder = tmp_path / "fabric"
    assert init(folder, "--passphrase") == 0
    assert all(is_sealed((folder / f"{name}.seed").read_text()) for name in ("root", "policy"))
    operator = Operator.load(folder)
    assert len(operator.policy_seed) == 32
    assert main(["fabric", "renew", "--dir", str(folder)]) == 0
    assert Operator.load(folder).issuer_certificate != operator.issuer_certificate
    sealed_seed.passphrase.cache_clear()
    given.write_text("another passphrase")
    with pytest.raises(KairosError, match="wrong"):
        _ = operator.policy_seed


def test_nothing_is_made_in_the_clear_when_a_passphrase_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fabric"
    monkeypatch.delenv("KAIROS_PASSPHRASE_FILE", raising=False)
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert init(folder, "--passphrase") == 1
    assert "KAIROS_PASSPHRASE_FILE" in capsys.readouterr().err
    short = tmp_path / "short"
    short.write_text("short")
    for path in (short, tmp_path / "missing"):
        monkeypatch.setenv("KAIROS_PASSPHRASE_FILE", str(path))
        assert init(folder, "--passphrase") == 1
    assert not folder.exists()


def test_an_existing_fabric_is_sealed_and_its_passphrase_changed(tmp_path: Path, given: Path) -> None:
    folder = tmp_path / "fabric"
    assert init(folder) == 0
    clear = {name: seed(folder, name) for name in ("root", "policy")}
    assert not is_sealed((folder / "root.seed").read_text())
    assert main(["fabric", "passphrase", "--dir", str(folder)]) == 0
    assert all(is_sealed((folder / f"{name}.seed").read_text()) for name in clear)
    assert {name: seed(folder, name) for name in clear} == clear


def test_what_a_killed_command_left_goes(tmp_path: Path, given: Path) -> None:
    folder = tmp_path / "fabric"
    folder.mkdir()
    (folder / ".root.seed.partial").write_bytes(b"seed")
    assert init(folder, "--passphrase") == 0
    assert not list(folder.glob(".*"))
