"""The command line itself: it teaches, and it fails in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kairos.deployment import issuer_id
from kairos_cli.main import build_parser, main
from kairos_cli.registry import VERBS, Verb


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_help_and_a_handler(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([*verb.name.split(), "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out) > 80
    module, _, function = verb.handler.partition(":")
    assert callable(getattr(__import__(f"kairos_cli.{module}", fromlist=[function]), function))


def test_a_fabric_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fabric"
    assert main(["fabric", "init", "--dir", str(folder)]) == 0
    assert "policy key" in capsys.readouterr().out
    seeds = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert main(["fabric", "init", "--dir", str(folder)]) == 1
    assert "holds a fabric already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == seeds


def test_a_new_issuer_leaves_the_root_alone(tmp_path: Path) -> None:
    folder = tmp_path / "fabric"
    assert main(["fabric", "init", "--dir", str(folder)]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["fabric", "renew", "--dir", str(folder)]) == 0
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before.get(path.name)}
    assert changed == {f"issuer-{issuer_id((folder / 'issuer.der').read_bytes())}.seed", "issuer.der"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tenant", "list"], "kairos fabric init"),
        (["device", "list", "--tenant", "acme"], "kairos fabric init"),
        (["agent", "enroll", "nonsense"], "not a join token"),
        (["agent", "status"], "kairos agent run"),
        (["policy", "check", "--source", "/nonexistent"], "grants file"),
        (["fabric", "init", "--suite", "KR0"], "KR0"),
    ],
)
def test_failure_is_one_line_that_says_what_to_do(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAIROS_FABRIC", str(tmp_path / "fabric"))
    if arguments[0] == "agent":
        arguments = [*arguments, "--state", str(tmp_path / "state")]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_an_unreachable_fabric_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "fabric")
    assert main(["fabric", "init", "--dir", folder, "--url", "http://127.0.0.1:9"]) == 0
    capsys.readouterr()
    assert main(["tenant", "list", "--dir", folder]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_an_unknown_verb_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["frobnicate"])
    assert ended.value.code == 2
    assert "--help" in capsys.readouterr().err


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"] == "kairos/1"
