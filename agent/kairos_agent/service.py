"""`kairos agent run` and `kairos proxy`: the daemon in the foreground."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kairos_agent.config import Config
from kairos_agent.proxy.wishes import Wishes
from kairos_dataplane import Dataplane
from kairos_node.start import run
from kairos_node.state import NodeState
from kairos_node.user_namespace import enter_user_namespace
from kairos_node.witness import Witness


def main(config_path: Path | None, directory: Path) -> int:
    """Runs until SIGTERM, SIGINT or `kairos agent down`; the exit status."""
    return run(config_path, Config, directory, "endpoint", _serve)


def proxy(config_path: Path | None, directory: Path, wishes: Wishes) -> int:
    """As main, without root. Raises Refused or OSError where the host has no room for it."""
    with contextlib.closing(Witness.start()) as witness:
        enter_user_namespace()

        async def serve(state: NodeState, config: Config, dataplane: Dataplane) -> None:
            from kairos_agent.rootless import serve

            await serve(state, config, dataplane, wishes, witness)

        return run(config_path, Config, directory, "endpoint", serve)


async def _serve(state: NodeState, config: Config, dataplane: Dataplane) -> None:
    from kairos_agent.agent import serve  # only now: it loads OpenSSL

    await serve(state, config, dataplane)
