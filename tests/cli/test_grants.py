"""The grants file is read strictly: what it cannot mean, it refuses, with the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kairos.errors import KairosError
from kairos_cli.grants import load_grants

GRANT = {"id": "g", "from": ["*"], "to": ["tag:web"], "ports": ["tcp/443"]}


def loaded(tmp_path: Path, document: object) -> Any:
    path = tmp_path / "grants.json"
    path.write_text(json.dumps(document))
    return json.loads(load_grants(path))["grants"]


def test_parties_and_ports_become_what_the_rules_ask_for(tmp_path: Path) -> None:
    grant = {**GRANT, "from": ["*", "group:dev", "10.0.0.0/8"], "ports": ["tcp/80-90", "udp/*", "icmp", "*"]}
    (got,) = loaded(tmp_path, {"allow": [grant]})["allow"]["list"]
    assert got["from"] == ["*", "group:dev", "10.0.0.0/8"]
    assert [(each["proto"], each["first"], each["last"]) for each in got["ports"]] == [
        ("tcp", 80, 90),
        ("udp", 0, 65535),
        ("icmp", 0, 65535),
        ("*", 0, 65535),
    ]


def test_grants_are_found_by_their_source_and_networks_are_known(tmp_path: Path) -> None:
    grants = [
        {**GRANT, "id": "one", "from": ["tag:a", "10.1.2.3"]},
        {**GRANT, "id": "two", "from": ["tag:a", "*"], "to": ["fd07::/64", "tag:x/24"]},
    ]
    got = loaded(tmp_path, {"allow": grants, "deny": [{**GRANT, "to": ["10.0.0.0/8"]}]})
    assert got["allow"]["from"] == {"tag:a": [0, 1], "10.1.2.3/32": [0], "*": [1]}
    assert got["networks"] == ["10.0.0.0/8", "10.1.2.3/32", "fd07::/64"]


def test_an_end_is_kept_in_utc(tmp_path: Path) -> None:
    (got,) = loaded(tmp_path, {"allow": [{**GRANT, "expires_at": "2027-01-01T02:00:00+02:00"}]})["allow"]["list"]
    assert got["expires_at"] == "2027-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"from": ["everyone"]}, "no party"),
        ({"to": ["10.0.0.1/8"]}, "no party"),
        ({"ports": ["443"]}, "no port"),
        ({"ports": ["tcp/90-80"]}, "no port range"),
        ({"ports": ["tcp/70000"]}, "no port range"),
        ({"expires_at": "2027-01-01T00:00:00"}, "time zone"),
        ({"expires_at": "soon"}, "soon"),
        ({"apps": ["curl"]}, "no program"),
        ({"require": {"disk_encrypted": None}}, "require"),
        ({"apps": ["unit:web"]}, "no program"),
        ({"apps": ["/usr/bin/curl curl"]}, "no program"),
        ({"apps": ["sha256:12"]}, "no program"),
        ({"when": [{"days": ["mo"]}]}, "no day"),
        ({"when": [{"from": "24:01"}]}, "no time of day"),
        ({"when": [{"to": "9:00"}]}, "no time of day"),
        ({"when": [{"zone": "Europe/Berlin"}]}, "no zone"),
        ({"form": ["*"]}, "form"),
    ],
)
def test_what_a_grant_cannot_mean_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(KairosError, match=says):
        loaded(tmp_path, {"allow": [{**GRANT, **change}]})


def test_an_id_names_one_rule(tmp_path: Path) -> None:
    with pytest.raises(KairosError, match="twice"):
        loaded(tmp_path, {"allow": [GRANT], "deny": [GRANT]})


def test_no_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(KairosError, match="no grants file"):
        load_grants(tmp_path / "nothing.json")


def test_only_an_allow_may_require_posture(tmp_path: Path) -> None:
    strict = {**GRANT, "require": {"disk_encrypted": True}}
    (got,) = loaded(tmp_path, {"allow": [strict]})["allow"]["list"]
    assert got["require"] == {"disk_encrypted": True}
    with pytest.raises(KairosError, match="cannot require posture"):
        loaded(tmp_path, {"deny": [strict]})


def test_a_program_is_named_by_facts_that_must_all_hold(tmp_path: Path) -> None:
    digest = "ab" * 32
    grant = {**GRANT, "apps": ["/usr/bin/curl", f"/usr/bin/nc sha256:{digest} uid:1000", "unit:web.service"]}
    (got,) = loaded(tmp_path, {"allow": [grant]})["allow"]["list"]
    assert got["apps"] == [
        {"path": "/usr/bin/curl"},
        {"path": "/usr/bin/nc", "sha256": digest, "uid": 1000},
        {"unit": "web.service"},
    ]


@pytest.mark.parametrize(
    ("when", "windows"),
    [
        ({}, [[day * 1440, (day + 1) * 1440] for day in range(7)]),
        ({"days": ["mon"], "from": "09:00", "to": "17:30"}, [[540, 1050]]),
        ({"days": ["mon"], "from": "00:30", "to": "01:30", "zone": "+01:00"}, [[0, 30], [10050, 10080]]),
        ({"days": ["sun"], "from": "22:00", "to": "06:00"}, [[0, 360], [9960, 10080]]),
        ({"days": ["mon"], "from": "22:00", "to": "23:00", "zone": "-02:00"}, [[1440, 1500]]),
        ({"days": ["sat-sun", "fri"], "to": "01:00"}, [[5760, 5820], [7200, 7260], [8640, 8700]]),
        ({"days": ["sun-mon"], "to": "01:00"}, [[0, 60], [8640, 8700]]),
    ],
)
def test_windows_are_minutes_of_the_week_in_utc(tmp_path: Path, when: dict[str, Any], windows: list[list[int]]) -> None:
    (got,) = loaded(tmp_path, {"allow": [{**GRANT, "when": [when]}]})["allow"]["list"]
    assert got["windows"] == windows


def test_a_file_that_says_nothing_of_sessions_lets_all_in(tmp_path: Path) -> None:
    (rule,) = loaded(tmp_path, {})["session"]
    assert (rule["outcome"], rule["tags"], rule["require"]) == ("allow", [], {})
    assert loaded(tmp_path, {"session": []})["session"] == []
