"""What each Worker is given: little enough for Cloudflare, and no secret that it does not need."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.deployment import (
    OBJECT_SOCKETS_MAX,
    PART_BYTES,
    SettingsError,
    internal_key,
    issuer_id,
    issuer_seed_name,
    joined,
    parts,
)
from kairos_cli.fabric import init, resources, settings
from kairos_cli.fabric.cloudflare_limits import SOCKETS
from kairos_cli.fabric.operator import Operator, OperatorError, base64_line, write_files
from kairos_cli.fabric.settings import WORKERS
from kairos_cli.main import main

VARIABLE_BYTES = 5_000


@pytest.fixture(params=["KR1", "KR5"])
def operator(tmp_path: Path, request: pytest.FixtureRequest) -> Operator:
    return init.create(tmp_path / "fabric", request.param, "kairos.test", "https://f.example", "https://r.example")


@given(st.text("ab", min_size=1, max_size=3 * PART_BYTES + 1))
def test_a_long_value_goes_through_several_variables(value: str) -> None:
    split = parts("NAME", value)
    assert all(0 < len(piece) <= PART_BYTES for piece in split.values())
    assert joined("NAME", lambda name: split.get(name, "")) == value


def test_a_value_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="NAME_1"):
        joined("NAME", lambda name: "")


def test_every_variable_and_secret_is_within_cloudflares_limit(operator: Operator) -> None:
    for worker in WORKERS:
        for name, value in (settings.variables(operator, worker) | settings.secrets(operator, worker)).items():
            assert len(name.encode()) + len(value.encode()) <= VARIABLE_BYTES, name


def test_certificates_come_out_as_they_went_in(operator: Operator) -> None:
    given = settings.variables(operator, "control")
    for name, der in (("ROOT", operator.root_certificate), ("ISSUER", operator.issuer_certificate)):
        assert base64.b64decode(joined(f"{name}_CERTIFICATE", lambda each: given.get(each, ""))) == der


def test_the_relay_holds_two_keys_and_nothing_else(operator: Operator) -> None:
    relay, control = (settings.secrets(operator, worker) for worker in ("relay", "control"))
    assert set(relay) == {"INTROSPECTION_KEY", "CUT_KEY"}
    assert relay.items() <= control.items()
    assert control["OBJECT_KEY"] not in relay.values()
    assert settings.variables(operator, "relay") == {}
    seeds = [base64.b64encode((operator.folder / f"{name}.seed").read_bytes()) for name in ("root", "policy")]
    assert not set(seeds) & {value.encode() for value in control.values()}


@pytest.mark.parametrize("renewed", [False, True])
def test_a_relay_from_before_0_2_is_known_until_it_is_deployed_anew(operator: Operator, renewed: bool) -> None:
    """It shows the internal key itself. Only a fabric that was made then has one."""
    assert "INTROSPECTION_KEY_PREVIOUS" not in settings.secrets(operator, "control")
    as_of_0_1(operator)
    if renewed:
        assert main(["fabric", "renew", "--dir", str(operator.folder)]) == 0
        operator = Operator.load(operator.folder)
    before = settings.secrets(operator, "control")
    assert before["INTROSPECTION_KEY_PREVIOUS"] == operator.internal_key
    assert operator.internal_key not in settings.secrets(operator, "relay").values()
    for _ in range(2):
        operator.leave_0_1()
        assert not operator.is_from_before_0_2
        without = {name: text for name, text in before.items() if name != "INTROSPECTION_KEY_PREVIOUS"}
        assert settings.secrets(operator, "control") == without


def test_what_a_deployed_0_1_cannot_rotate_is_not_rotated(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    as_of_0_1(operator)
    (operator.folder / resources.RECORD).write_text('{"database": "an-id"}')
    before = (operator.folder / "internal.key").read_text()
    assert main(["fabric", "rotate", "internal-key", "--dir", str(operator.folder)]) == 1
    assert "kairos fabric upgrade" in capsys.readouterr().err
    assert (operator.folder / "internal.key").read_text() == before


@pytest.mark.parametrize("value", ["0", "-1", "2.5", '"many"', "true", "32_768"])
def test_a_number_of_sockets_that_no_object_can_hold_is_refused(operator: Operator, value: str) -> None:
    path = operator.folder / "fabric.toml"
    written = path.read_text()
    path.write_text(f"{written}object_sockets = {value}\n")
    with pytest.raises(OperatorError, match="object_sockets"):
        Operator.load(operator.folder)
    path.write_text(f"{written}object_sockets = 500\n")
    assert settings.variables(Operator.load(operator.folder), "control")["OBJECT_SOCKETS"] == "500"
    assert OBJECT_SOCKETS_MAX < SOCKETS


def as_of_0_1(operator: Operator) -> None:
    """The name that the seed had then."""
    seed = f"issuer-{issuer_id(operator.issuer_certificate)}.seed"
    (operator.folder / seed).rename(operator.folder / "issuer.seed")


def test_a_renewal_changes_seed_and_certificate_together(operator: Operator) -> None:
    before = settings.secrets(operator, "control")
    assert main(["fabric", "renew", "--dir", str(operator.folder)]) == 0
    renewed = Operator.load(operator.folder)
    after = settings.secrets(renewed, "control")
    old, new = issuer_seed_name(operator.issuer_certificate), issuer_seed_name(renewed.issuer_certificate)
    assert old != new
    assert new in after
    assert old not in after
    assert before[old] != after[new]


def test_a_renewal_that_was_cut_short_leaves_the_old_pair(operator: Operator) -> None:
    before = settings.secrets(operator, "control")
    write_files(operator.folder, [("issuer-0123456789abcdef.seed", base64_line(b"s" * 32))])
    assert settings.secrets(Operator.load(operator.folder), "control") == before


def test_a_seed_of_another_key_is_refused(operator: Operator) -> None:
    name = f"issuer-{issuer_id(operator.issuer_certificate)}.seed"
    write_files(operator.folder, [(name, base64_line(b"s" * 32))])
    with pytest.raises(OperatorError, match="kairos fabric renew"):
        settings.secrets(operator, "control")


def test_a_worker_without_the_seed_of_its_certificate_serves_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import ModuleType

    for name in ("js", "pyodide", "pyodide.ffi", "workers"):
        module = ModuleType(name)
        module.__dict__.update({each: SimpleNamespace() for each in ("Object", "Uint8Array", "to_js", "JsException")})
        monkeypatch.setitem(sys.modules, name, module)
    from kairos_control.adapters.platform import settings_of

    given = settings.variables(operator, "control") | settings.secrets(operator, "control")
    parsed = settings_of(SimpleNamespace(**given))
    assert parsed.issuer.certificate.der == operator.issuer_certificate
    assert parsed.issuer.seed == operator.issuer_seed
    other = init.create(operator.folder.parent / "other", operator.suite.name, "kairos.test", "https://f", "https://r")
    swapped = given | {name: text for name, text in settings.variables(other, "control").items() if "ISSUER" in name}
    with pytest.raises(SettingsError, match=issuer_seed_name(other.issuer_certificate)):
        settings_of(SimpleNamespace(**swapped))


def test_keys_of_different_purposes_have_nothing_in_common() -> None:
    purposes = ("introspection", "cut", "object")
    assert len({internal_key("root", each) for each in purposes} | {internal_key("other", "cut")}) == 4
