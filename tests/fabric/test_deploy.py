"""`kairos fabric deploy --dry-run`: wrangler takes both Workers, with all their bindings. A real deployment needs an account."""

from __future__ import annotations

from pathlib import Path

import pytest

from kairos_cli.fabric.deploy import RESOURCES, Configured, Wrangler
from kairos_cli.fabric.init import create
from kairos_cli.fabric.local import source_tree
from kairos_cli.fabric.operator import Operator

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    folder = tmp_path_factory.mktemp("operator") / "fabric"
    return create(folder, "KR1", "kairos.test", "https://fabric.example.net", "https://relay.example.net")


@pytest.mark.parametrize("configuration", ["wrangler.toml", "wrangler.relay.toml"])
def test_wrangler_takes_the_worker(operator: Operator, configuration: str) -> None:
    said = Wrangler(source_tree()).dry_run(configuration, operator)
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
