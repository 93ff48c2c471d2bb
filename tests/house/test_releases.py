"""What a release leaves behind: its heading in the changelog, and a fabric of it that later releases are tested on."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

import kairos

ROOT = Path(__file__).parents[2]
STATES = ROOT / "tests/fabric/states"
UNRELEASED = "## Unreleased"


def released(changelog: str) -> list[str]:
    """The versions that have a heading, the newest first."""
    return re.findall(r"^## (\d+\.\d+\.\d+)\b", changelog, re.MULTILINE)


def without_state(changelog: str, states: Set[str]) -> list[str]:
    return [version for version in released(changelog) if version not in states]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_a_release_without_a_kept_state_is_found() -> None:
    changelog = "# Changelog\n\n## Unreleased\n\n## 0.3.0 - 2027-01-02\n\n### Changed\n\n## 0.2.0 - 2026-12-01\n"
    assert released(changelog) == ["0.3.0", "0.2.0"]
    assert without_state(changelog, {"a944a17", "0.2.0"}) == ["0.3.0"]


def test_every_release_has_a_kept_state() -> None:
    """python tests/keep_state.py HEAD tests/fabric/states/VERSION.tar.xz makes it (CONTRIBUTING.md)."""
    states = {path.name.removesuffix(".tar.xz") for path in STATES.glob("*.tar.xz")}
    assert without_state((ROOT / "CHANGELOG.md").read_text(), states) == []


def test_releases_are_in_order_and_the_code_is_of_the_newest_or_a_later_one() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = [numbers(each) for each in released(changelog)]
    assert versions == sorted(set(versions), reverse=True)
    assert not versions or versions[0] <= numbers(kairos.__version__)
    headings = re.findall(r"^## .*$", changelog, re.MULTILINE)
    assert headings[0] == UNRELEASED
    assert len(headings) == len(versions) + 1, "a heading is Unreleased or a version"
