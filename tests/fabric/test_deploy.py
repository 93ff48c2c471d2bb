"""`kairos fabric deploy`, `upgrade` and `rotate`: wrangler takes both Workers with all their bindings, and puts them into an account, new or
deployed to before. The account is a stand-in; wrangler is the real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloudflare_account import DATABASE, NAMESPACE, CloudflareAccount, running_account

from kairos.deployment import issuer_seed_name
from kairos_cli.fabric import dry_run, resources, settings, upgrade, workspace
from kairos_cli.fabric.init import create
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.settings import WORKERS, Worker
from kairos_cli.fabric.steps import QUIET
from kairos_cli.fabric.wrangler import Wrangler, configured
from kairos_cli.main import main

NAMES: dict[Worker, str] = {"control": "kairos-fabric", "relay": "kairos-relay"}
pytestmark = pytest.mark.timeout(1200)  # wrangler starts a Node for each word


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return create(tmp_path / "fabric", "KR1", "kairos.test", "https://fabric.example.net", "https://relay.example.net")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudflareAccount]:
    workspace.prepare(QUIET)
    with running_account() as account:
        for name, value in account.environment().items():
            monkeypatch.setenv(name, value)
        yield account


def verb(operator: Operator, *words: str) -> int:
    return main(["fabric", *words, "--dir", str(operator.folder)])


def test_a_dry_run_checks_all_and_changes_nothing(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in operator.folder.iterdir()}
    assert verb(operator, "deploy", "--dry-run", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert {path.name: path.read_bytes() for path in operator.folder.iterdir()} == before
    for worker in WORKERS:
        assert 0 < figures[f"script_gzip_bytes_{worker}"] < 3_000_000
        assert 0 < figures[f"variable_bytes_{worker}"] <= 5_000
        assert figures[f"missing_flags_{worker}"] == 0
        assert figures[f"import_cpu_ms_{worker}"] > 0
        assert figures[f"object_classes_without_migration_{worker}"] == 0
    assert figures["queues_without_dead_letters_control"] == 0


def test_a_class_of_objects_that_no_migration_makes_is_found() -> None:
    bindings = [{"name": "A", "class_name": "Made"}, {"name": "B", "class_name": "Forgotten"}]
    configuration = {
        "durable_objects": {"bindings": bindings}, "migrations": [{"tag": "v1", "new_sqlite_classes": ["Made"]}]
    }  # fmt: skip
    assert dry_run.unmade_classes(configuration) == {"Forgotten"}


def test_ids_take_the_place_of_the_placeholders() -> None:
    root = workspace.folder()
    ids = [each.placeholder for each in resources.RESOURCES if each.placeholder]
    with configured(root, dict.fromkeys(ids, "ffff")) as configurations:
        text = (root / configurations["control"]).read_text()
        assert text.count('"ffff"') == len(ids)
    assert not (root / configurations["control"]).exists()


def test_a_new_account_a_renewal_and_a_rotation(
    operator: Operator, account: CloudflareAccount, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(operator, "deploy") == 0, capsys.readouterr().err
    assert set(account.created) == {each.name for each in resources.RESOURCES}
    assert account.unknown == []
    assert account.secrets == {NAMES[worker]: settings.secrets(operator, worker) for worker in WORKERS}
    assert "CREATE TABLE tenants" in "".join(account.statements)
    assert_code_before_migrations(account)
    bound = {name: {each["name"]: each for each in script["bindings"]} for name, script in account.scripts.items()}
    assert bound["kairos-fabric"]["DB"]["id"] == DATABASE
    assert bound["kairos-fabric"]["CACHE"]["namespace_id"] == NAMESPACE
    assert bound["kairos-fabric"]["RELAY"]["service"] == "kairos-relay"
    assert bound["kairos-relay"]["CONTROL"]["service"] == "kairos-fabric"
    for worker, name in NAMES.items():
        texts = {each: binding["text"] for each, binding in bound[name].items() if binding["type"] == "plain_text"}
        assert texts == settings.variables(operator, worker)
    assert {name: each["migrations"]["new_tag"] for name, each in account.scripts.items()} == {
        "kairos-fabric": "v2", "kairos-relay": "v1"
    }  # fmt: skip
    assert {queue: each["dead_letter_queue"] for queue, each in account.consumers.items()} == {
        f"kairos-{name}{end}": None if end else f"kairos-{name}-dead"
        for name in ("events", "telemetry", "sweeps")
        for end in ("", "-dead")
    }
    assert all(script["observability"]["enabled"] for script in account.scripts.values())

    # wrangler by itself, as the tree has it.
    for worker, name in NAMES.items():
        Wrangler(workspace.folder()).run("deploy", "--keep-vars", "--config", settings.CONFIGURATION[worker])
        assert "plain_text" in account.scripts[name]["keep_bindings"]
        assert account.deployments[-1][0] == name
        assert account.deployments[-1][1]["code_update_strategy"] == {"mode": "immediate"}
    assert account.unknown == []

    # A new issuer: the seed is there before the certificate is served, and the old one goes after.
    account.secret_calls.clear()
    assert verb(operator, "renew") == 0
    renewed = Operator.load(operator.folder)
    old, new = issuer_seed_name(operator.issuer_certificate), issuer_seed_name(renewed.issuer_certificate)
    uploads = len(account.uploads)
    assert verb(operator, "deploy") == 0
    changes = [values for name, values in account.secret_calls if name == "kairos-fabric"]
    assert new in changes[0]
    assert changes[-1] == {old: None}
    assert len(account.uploads) > uploads
    assert len(account.created) == len(resources.RESOURCES)
    assert "migrations" not in account.scripts["kairos-fabric"]

    # A new internal key: each Worker accepts the new key before any Worker sends it.
    account.secret_calls.clear()
    before = dict(account.secrets["kairos-relay"])
    assert verb(operator, "rotate", "internal-key") == 0
    shown = {"kairos-fabric": "CUT_KEY", "kairos-relay": "INTROSPECTION_KEY"}
    first = {name: min(at for at, (each, values) in enumerate(account.secret_calls) if each == name and key in values)
             for name, key in shown.items()}  # fmt: skip
    accepted = {name: min(at for at, (each, _) in enumerate(account.secret_calls) if each == name) for name in shown}
    assert max(accepted.values()) < min(first.values())
    assert account.secrets["kairos-fabric"]["INTROSPECTION_KEY_PREVIOUS"] == before["INTROSPECTION_KEY"]
    assert account.secrets["kairos-relay"]["CUT_KEY_PREVIOUS"] == before["CUT_KEY"]
    assert verb(operator, "rotate", "internal-key", "--finish") == 0
    assert not [name for held in account.secrets.values() for name in held if name.endswith("_PREVIOUS")]
    assert account.secrets["kairos-relay"]["CUT_KEY"] != before["CUT_KEY"]
    assert not list(workspace.folder().glob(".deploy.*"))

    # The account has the release before event shards: their class is added, and nothing else of its objects changes.
    account.uploads[:] = [("kairos-fabric", {"migrations": {"new_tag": "v1"}})]
    assert verb(operator, "deploy") == 0
    assert account.scripts["kairos-fabric"]["migrations"] == {
        "old_tag": "v1", "new_tag": "v2", "steps": [{"new_sqlite_classes": ["EventShard"]}]
    }  # fmt: skip


def assert_code_before_migrations(account: CloudflareAccount) -> None:
    """Objects end at once with the code of before, and only then are tables changed that it uses."""
    last = {name: at for at, name in enumerate(account.steps)}
    first_migration = account.steps.index("migration")
    assert account.steps.index("kairos-fabric") < first_migration
    assert [each for each in account.steps[first_migration:] if each == "kairos-fabric"] == []
    assert last["migration"] < last["kairos-relay"]
    for script in account.scripts.values():
        assert script["code_update_strategy"] == {"mode": "immediate"}


def test_a_deployment_that_was_killed_anywhere_is_finished_by_the_next(
    operator: Operator, account: CloudflareAccount, capsys: pytest.CaptureFixture[str]
) -> None:
    # A directory of 0.1: the key that its relay shows is accepted until the new relay is there.
    [seed] = operator.folder.glob("issuer-*.seed")
    seed.rename(operator.folder / "issuer.seed")
    account.fails_after = 4
    assert verb(operator, "deploy") == 1
    assert operator.is_from_before_0_2
    (operator.folder / resources.RECORD).unlink()  # made, and killed before it could be recorded
    account.fails_after = None
    assert verb(operator, "deploy") == 0, capsys.readouterr().err
    assert sorted(account.created) == sorted(each.name for each in resources.RESOURCES)
    assert seed.exists()
    given = [call.get("INTROSPECTION_KEY_PREVIOUS", "") for _, call in account.secret_calls]
    assert operator.internal_key in given[:-1]
    assert account.secret_calls[-1] == ("kairos-fabric", {"INTROSPECTION_KEY_PREVIOUS": None})
    assert account.steps[-2:] == ["kairos-relay", "secrets"]
    assert account.secrets == {NAMES[worker]: settings.secrets(operator, worker) for worker in WORKERS}


def test_what_the_account_refuses_is_one_line(
    operator: Operator, account: CloudflareAccount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", "http://127.0.0.1:9/client/v4")
    capsys.readouterr()
    assert verb(operator, "deploy") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "wrangler" in said


def test_a_variable_over_the_limit_is_refused_before_anything_is_made(
    operator: Operator, account: CloudflareAccount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "variables", lambda operator, worker: {"ROOT_CERTIFICATE": "x" * 7_388})
    assert verb(operator, "deploy") == 1
    assert "VARIABLE_BYTES: control: ROOT_CERTIFICATE: 7,388 > 5,000" in capsys.readouterr().err
    assert account.created == []


def test_an_upgrade_goes_forward_only(tmp_path: Path) -> None:
    upgrade.require_no_downgrade("0.1.0", "0.1.0")
    upgrade.require_no_downgrade("0.1.9", "0.1.10")
    with pytest.raises(upgrade.UpgradeError, match="newer than this command"):
        upgrade.require_no_downgrade("0.2.0", "0.1.10")
    (tmp_path / "workers/migrations").mkdir(parents=True)
    (tmp_path / "workers/migrations/0001_a.sql").touch()
    upgrade.require_known_migrations(["0001_a.sql"], tmp_path)
    with pytest.raises(upgrade.UpgradeError, match="0002_b"):
        upgrade.require_known_migrations(["0001_a.sql", "0002_b.sql"], tmp_path)


def test_a_fabric_that_was_never_deployed_is_not_upgraded(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(operator, "upgrade") == 1
    assert "kairos fabric deploy" in capsys.readouterr().err
