"""`kairos fabric dev`: the fabric on this machine, in the foreground."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from kairos_cli.fabric import resources, workspace
from kairos_cli.fabric.local import FabricError, LocalFabric, address_of
from kairos_cli.fabric.operator import Operator, directory
from kairos_cli.fabric.steps import Steps


def run(options: argparse.Namespace) -> None:
    operator = Operator.load(directory(options.dir))
    if not resources.known(operator):
        operator.leave_0_1()  # both Workers start from this release
    host, port = address_of(operator.url)
    state = Path(options.state) if options.state else operator.state
    steps = Steps(quiet=options.json)
    workspace.prepare(steps)
    fabric = LocalFabric(operator, state.resolve(), options.host or host, options.port or port)
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        fabric.start(steps)
        _print_ready(fabric, time.monotonic() - started, options.json)
        ended = fabric.wait(lambda fault: print(fault, file=sys.stderr, flush=True))
        raise FabricError(f"the {ended} Worker ended; its log is {fabric.state / ended}.log")
    except KeyboardInterrupt:
        return
    finally:
        fabric.stop()


def _print_ready(fabric: LocalFabric, took_s: float, as_json: bool) -> None:
    url, relay_url = (f"http://{fabric.host}:{port}" for port in (fabric.port, fabric.port + 1))
    if as_json:
        ready = {"url": url, "relay_url": relay_url, "state": str(fabric.state), "ready_s": round(took_s, 3)}
        print(json.dumps(ready), flush=True)
        return
    print(f"fabric  {url}  ready in {took_s:.1f} s", flush=True)
    print(f"relay   {relay_url}\nstate   {fabric.state}\nCtrl-C stops it; its state stays.", flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
