"""What a gateway counts against an endpoint: of the last minute, each offence once, and nothing after its release."""

from __future__ import annotations

from kairos.constants import REPORTS_MAX
from kairos_dataplane import Offences
from kairos_gateway.conduct import Conduct

NODE = "ep-a"
NOTHING = {"forged": 0, "replayed": 0, "spoofed": 0, "duplicates": 0}


def test_an_offence_counts_once_and_for_a_minute() -> None:
    conduct = Conduct()
    conduct.offended(NODE, {1: Offences(0, 2, 5)}, 100.0)
    conduct.offended(NODE, {1: Offences(0, 2, 5)}, 101.0)
    conduct.offended(NODE, {1: Offences(1, 2, 9)}, 130.0)
    assert conduct.counts(NODE, 131.0) == NOTHING | {"forged": 1, "replayed": 2, "spoofed": 9}
    assert conduct.counts(NODE, 165.0) == NOTHING | {"forged": 1, "spoofed": 4}
    assert conduct.counts(NODE, 190.0) == NOTHING


def test_a_new_session_starts_at_nothing_and_the_old_ones_offences_stay() -> None:
    conduct = Conduct()
    conduct.offended(NODE, {1: Offences(0, 0, 5)}, 100.0)
    conduct.offended(NODE, {2: Offences(0, 0, 3)}, 110.0)
    assert conduct.counts(NODE, 111.0) == NOTHING | {"spoofed": 8}


def test_nodes_are_told_apart_and_a_release_forgets() -> None:
    conduct = Conduct()
    conduct.taken_over(NODE, 100.0)
    conduct.reported(NODE, {"disk_encrypted": False})
    assert conduct.counts("ep-b", 100.0) == NOTHING
    assert conduct.counts(NODE, 100.0) == NOTHING | {"duplicates": 1}
    conduct.forget(NODE)
    assert conduct.counts(NODE, 100.0) == NOTHING
    assert conduct.reports(NODE) == []


def test_reports_are_newest_first_and_bounded() -> None:
    conduct = Conduct()
    for number in range(REPORTS_MAX + 5):
        conduct.reported(NODE, {"number": number})
    newest = REPORTS_MAX + 4
    assert [each["number"] for each in conduct.reports(NODE)] == list(range(newest, newest - REPORTS_MAX, -1))
