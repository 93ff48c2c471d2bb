"""KairOS Red in the measurements of the data plane: two bare engines, and the whole product with its fabric."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.link import Link, namespaces, wait_for
from overlay import GRANTS, Overlay, running_overlay
from overlay import wait_for as overlay_wait_for

_ANYTHING = {"id": "bench", "from": ["*"], "to": ["*"], "ports": ["tcp/*", "udp/*"], "log": False}
_SETTLE_S = 60.0


@contextmanager
def engines(aead: str) -> Iterator[Link]:
    """Two C engines, each in its own process, UDP straight between them, every flow judged once (bench/programs/engine.py).
    aead: auto, which takes ipsec-mb where it is, or openssl."""
    with ExitStack() as stack:
        names = stack.enter_context(namespaces(f"kr{aead[:1]}"))
        pids = [stack.enter_context(_engine(name, side, aead)) for side, name in enumerate(names)]
        link = Link(*names, "10.77.0.2", "under0", ((pids[0],), (pids[1],)))
        wait_for(link.is_up, f"the engines with {aead} did not come up")
        yield link


@contextmanager
def _engine(namespace: str, side: int, aead: str) -> Iterator[int]:
    process = subprocess.Popen(
        (sys.executable, "-m", "bench.programs.engine", namespace, str(side), aead), stdin=subprocess.PIPE
    )
    try:
        yield process.pid
    finally:
        process.communicate()


class Product:
    """An endpoint's and a gateway's daemon with a fabric in workerd, everything allowed. They stand on a bridge."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay

    def start(self, path: str, rekey_after_s: float | None = None) -> Link:
        """New daemons, as soon as their tunnel takes that path: direct or relay. rekey_after_s: None for the default."""
        gateway, endpoint = self._overlay.gateway, self._overlay.alice
        self._overlay.down()
        endpoint.config.write_text(f'path = "{path}"\n')
        gateway.config.write_text("" if rekey_after_s is None else f"rekey_after_s = {rekey_after_s}\n")
        self._overlay.up(gateway, endpoint)
        overlay_wait_for(f"the {path} path", lambda: endpoint.tunnel().get("path") == path, _SETTLE_S)
        pids = (endpoint.process.pid,), (gateway.process.pid,)
        link = Link(endpoint.namespace, gateway.namespace, self._overlay.address_of(gateway), "eth0", pids)
        wait_for(link.is_up, f"nothing passes on the {path} path")
        return link

    def stop(self) -> None:
        self._overlay.down()


@contextmanager
def product() -> Iterator[Product]:
    with tempfile.TemporaryDirectory() as folder, running_overlay(Path(folder)) as overlay:
        overlay.push_policy({**GRANTS, "allow": [*GRANTS["allow"], _ANYTHING]})
        yield Product(overlay)
