"""`kairos gateway run`: the daemon in the foreground."""

from __future__ import annotations

from pathlib import Path

from kairos.errors import KairosError
from kairos_gateway.config import Config
from kairos_node.start import load_config, log_to_stderr, prepare, say


def main(config_path: Path | None, directory: Path) -> int:
    """Runs until SIGTERM, SIGINT or `kairos gateway down`; the exit status."""
    try:
        config = load_config(config_path, Config)
        state = prepare(directory, "gateway")
        log_to_stderr(config.log)
        from kairos_gateway.gateway import serve  # only now: it loads OpenSSL

        with state.locked():
            serve(state, config)
    except (KairosError, RuntimeError, OSError) as error:
        return say(error)
    return 0
