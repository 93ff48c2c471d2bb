"""Documents that name what the code has: each has its heading, and says the same."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from kairos_cli.registry import VERBS
from kairos_control.http import app
from kairos_control.problems import PROBLEMS

ROOT = Path(__file__).parents[2]


def headings(path: str) -> set[str]:
    return {
        line.lstrip("#").strip().strip("`") for line in (ROOT / path).read_text().splitlines() if line.startswith("#")
    }


def test_every_verb_has_its_heading() -> None:
    assert {f"kairos {verb.name}" for verb in VERBS} <= headings("docs/cli.md")


def test_every_verb_that_the_manual_names_exists() -> None:
    named = {heading for heading in headings("docs/cli.md") if heading.startswith("kairos ")}
    assert named <= {f"kairos {verb.name}" for verb in VERBS}


def test_every_route_has_its_heading() -> None:
    named = {heading for heading in headings("docs/api.md") if "/" in heading}
    relay = {"GET /v1/relay/{gateway}", "POST /internal/cut"}
    assert named - relay == {f"{route.method} {route.path}" for route in app.ALL}


def test_every_problem_has_its_row() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert {code: (int(status), title) for code, status, title in rows} == PROBLEMS


def test_every_drop_has_its_row() -> None:
    source = (ROOT / "dataplane/csrc/kdp_api.h").read_text() + (ROOT / "dataplane/csrc/internal.h").read_text()
    drops = set(re.findall(r"\bdrop_[a-z0-9_]+", source))
    documented = set(re.findall(r"`(drop_[a-z0-9_]+)`", (ROOT / "docs/operations.md").read_text()))
    assert drops, "no drop counter was found"
    assert drops == documented


def test_the_schema_is_all_migrations_applied() -> None:
    def tables(*scripts: Path) -> list[tuple[str, ...]]:
        database = sqlite3.connect(":memory:")
        for script in scripts:
            database.executescript(script.read_text())
        rows = database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name")
        found: list[tuple[str, ...]] = [(kind, name, re.sub(r"\s+", " ", sql)) for kind, name, sql in rows]
        database.close()
        return found

    migrations = sorted((ROOT / "workers/migrations").glob("*.sql"))
    assert migrations
    assert tables(ROOT / "schema.sql") == tables(*migrations)


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"
