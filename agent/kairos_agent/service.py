"""`kairos agent run`: the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path

from kairos_agent.config import Config
from kairos_dataplane import Dataplane
from kairos_node.start import run
from kairos_node.state import NodeState


def main(config_path: Path | None, directory: Path) -> int:
    """Runs until SIGTERM, SIGINT or `kairos agent down`; the exit status."""
    return run(config_path, Config, directory, "endpoint", _serve)


async def _serve(state: NodeState, config: Config, dataplane: Dataplane) -> None:
    from kairos_agent.agent import serve  # only now: it loads OpenSSL

    await serve(state, config, dataplane)
