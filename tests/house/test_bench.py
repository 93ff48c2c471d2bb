"""What measurements promise their reader: a row in bench/README.md, and figures with their spread."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_a_quick_measurement_has_one_round() -> None:
    assert list(Rounds("toy", "A toy.", ["--quick"])) == [1]
