"""`kairos proxy`: VNIs for the programs of a user without root."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from kairos_cli import output
from kairos_node.state import default_directory


def run(options: Namespace) -> int:
    """Stays in the foreground; the exit status."""
    from kairos_agent.proxy.wishes import Wishes, listen_at
    from kairos_agent.service import proxy

    def ready(where: str, vnis: list[str]) -> None:
        if options.json:
            output.as_json({"listen": where, "vnis": vnis})
            sys.stdout.flush()
        else:
            print(f"SOCKS5 and HTTP CONNECT on {where}, into {', '.join(vnis) or 'no VNI yet'}", flush=True)

    listen = listen_at(options.listen, options.idle, options.let_other_hosts_in)
    directory = Path(options.state) if options.state else default_directory("agent")
    config = Path(options.config) if options.config else None
    return proxy(config, directory, Wishes(listen, frozenset(options.vni or ()), ready))
