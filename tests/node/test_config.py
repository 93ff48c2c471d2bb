"""Configuration files: the examples are the defaults, the manual names every key, mistakes are told in one line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kairos.errors import Refused
from kairos_agent.config import Config as AgentConfig
from kairos_gateway.config import Config as GatewayConfig
from kairos_node.start import load_config

ROOT = Path(__file__).parents[2]
BOTH = [
    ("agent/kairos_agent/agent.toml", AgentConfig),
    ("gateway/kairos_gateway/gateway.toml", GatewayConfig),
]


@pytest.mark.parametrize(("example", "kind"), BOTH)
def test_the_example_shows_every_key_with_its_default(example: str, kind: type[AgentConfig | GatewayConfig]) -> None:
    assert load_config(ROOT / example, kind) == kind()
    shown = {line.split(" = ")[0] for line in (ROOT / example).read_text().splitlines() if " = " in line}
    assert shown == {field.name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize("kind", [AgentConfig, GatewayConfig])
def test_the_manual_has_a_heading_for_every_key(kind: type[AgentConfig | GatewayConfig]) -> None:
    manual = (ROOT / "docs/config.md").read_text().splitlines()
    for field in msgspec.structs.fields(kind):
        assert f"### {field.name}" in manual


@pytest.mark.parametrize(
    "text", ['path = "sideways"', "unknown = 1", "path = ", 'listen = 7', 'provider = "none"', "\x00"]
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(Refused, match=r"agent\.toml") as refused:
        load_config(file, AgentConfig)
    assert "\n" not in str(refused.value)


def test_a_rekey_interval_is_never_longer_than_the_protocols(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("rekey_after_s = 121.0")
    with pytest.raises(Refused):
        load_config(file, GatewayConfig)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        load_config(tmp_path / "missing.toml", AgentConfig)
