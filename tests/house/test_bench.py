"""What measurements promise their reader: a row in bench/README.md, and figures with their spread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.rounds import Rounds

BENCH = Path(__file__).parents[2] / "bench"
MEASUREMENTS = sorted(path.stem for path in BENCH.glob("*.py") if "\nif __name__" in path.read_text())


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_is_explained(name: str) -> None:
    assert f"| `{name}` |" in (BENCH / "README.md").read_text()


def test_a_figure_is_the_median_of_three_rounds_with_its_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = Rounds("toy", "A toy.", ["--json", str(tmp_path / "toy.json")])
    for number in rounds:
        rounds.add("speed", 10_000.0 * number**2, "parcels/s")
    rounds.finish()
    document = json.loads((tmp_path / "toy.json").read_text())
    assert document["rounds"] == 3
    assert document["figures"] == {"speed": 40_000}
    assert document["spread"] == {"speed": [10_000, 90_000]}
    assert document["units"] == {"speed": "parcels/s"}
    assert {"processor", "cores", "kernel", "python", "load"} == set(document["machine"])
    assert capsys.readouterr().out.splitlines()[1].split() == ["speed", "40,000", "10,000", "90,000", "parcels/s"]


def test_a_picture_shows_what_was_measured_and_no_more(tmp_path: Path) -> None:
    rounds = Rounds("toy", "A toy.", ["--json", str(tmp_path / "toy.json"), "--quick"])
    for _ in rounds:
        rounds.add("red_speed", 12.5, "parcels/s")
    rounds.missing("blue", "not installed: apt install blue")
    rounds.finish({"how fast": {"red": "red_speed", "blue": "blue_speed"}, "how far": {"red": "red_way"}})
    picture = ElementTree.fromstring((tmp_path / "toy.svg").read_text())
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "toy"
    assert texts[2:] == ["how fast", "parcels/s", "red", "12.5"]
    assert json.loads((tmp_path / "toy.json").read_text())["missing"] == {"blue": "not installed: apt install blue"}


def test_a_case_that_fails_is_named_and_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def figures() -> Iterator[tuple[str, float, str]]:
        yield "speed", 3.0, "parcels/s"
        raise RuntimeError("the road is closed\nand more")

    rounds = Rounds("toy", "A toy.", ["--quick"])
    assert rounds.attempt("red road", figures(), "red_") == {"speed": 3.0}
    rounds.finish()
    assert "red_speed" in (shown := capsys.readouterr().out)
    assert shown.splitlines()[-1].split(maxsplit=2) == ["red", "road", "the road is closed"]


def test_a_quick_measurement_has_one_round() -> None:
    assert list(Rounds("toy", "A toy.", ["--quick"])) == [1]
