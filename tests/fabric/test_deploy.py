"""`kairos fabric deploy`: wrangler takes both Workers with all their bindings, and puts them into an account, new or deployed to before.
The account is a stand-in; wrangler is the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloudflare_account import DATABASE, NAMESPACE, running_account

from kairos_cli.fabric import settings
from kairos_cli.fabric.deploy import RESOURCES, Configured, Wrangler
from kairos_cli.fabric.init import create
from kairos_cli.fabric.local import source_tree
from kairos_cli.fabric.operator import Operator

WORKERS: dict[settings.Worker, str] = {"control": "kairos-fabric", "relay": "kairos-relay"}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    folder = tmp_path_factory.mktemp("operator") / "fabric"
    return create(folder, "KR1", "kairos.test", "https://fabric.example.net", "https://relay.example.net")


@pytest.mark.parametrize("configuration", ["wrangler.toml", "wrangler.relay.toml"])
def test_wrangler_takes_the_worker(operator: Operator, configuration: str) -> None:
    said = Wrangler(source_tree()).dry_run(configuration, {})
    assert "KiB" in said
    built = source_tree() / ".build/deploy" / Path(configuration).stem
    assert any(built.rglob("*.py"))


def test_the_whole_verb_changes_nothing(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    from kairos_cli.main import main

    before = {path.name: path.read_bytes() for path in operator.folder.iterdir()}
    assert main(["fabric", "deploy", "--dry-run", "--dir", str(operator.folder)]) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in operator.folder.iterdir()} == before


def test_ids_take_the_place_of_the_placeholders() -> None:
    placeholders = [each.placeholder for each in RESOURCES if each.placeholder]
    with Configured(source_tree(), dict.fromkeys(placeholders, "ffff")) as configurations:
        text = (source_tree() / configurations["wrangler.toml"]).read_text()
        assert text.count('"ffff"') == len(placeholders)
    assert not (source_tree() / configurations["wrangler.toml"]).exists()


def test_a_new_account_and_a_second_deployment(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    from kairos_cli.main import main

    verb = ["fabric", "deploy", "--dir", str(operator.folder)]
    with running_account() as account:
        for name, value in account.environment().items():
            monkeypatch.setenv(name, value)
        assert main(verb) == 0
        assert account.created == ["database", "cache", "blobs", "events", "telemetry", "sweeps"]
        assert account.unknown == []
        assert account.secrets == {WORKERS[worker]: settings.secrets(operator, worker) for worker in WORKERS}
        assert "CREATE TABLE tenants" in "".join(account.statements)

        bound = {name: {each["name"]: each for each in script["bindings"]} for name, script in account.scripts.items()}
        assert bound["kairos-fabric"]["DB"]["id"] == DATABASE
        assert bound["kairos-fabric"]["CACHE"]["namespace_id"] == NAMESPACE
        assert bound["kairos-fabric"]["RELAY"]["service"] == "kairos-relay"
        assert bound["kairos-relay"]["CONTROL"]["service"] == "kairos-fabric"
        for worker, name in WORKERS.items():
            texts = {each: binding["text"] for each, binding in bound[name].items() if binding["type"] == "plain_text"}
            assert texts == settings.variables(operator, worker)
        assert [each["migrations"]["new_tag"] for each in account.scripts.values()] == ["v1", "v1"]
        assert len(account.triggers) == 4

        assert main(verb) == 0
        assert len(account.created) == 6
        assert "migrations" not in account.scripts["kairos-fabric"]
    assert not list(source_tree().glob(".deploy.*"))


def test_what_wrangler_refuses_is_one_line(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kairos_cli.main import main

    monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", "http://127.0.0.1:9/client/v4")
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "a-token")
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "0" * 32)
    assert main(["fabric", "deploy", "--dir", str(operator.folder)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "wrangler" in said
