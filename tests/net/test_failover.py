"""Several gateways: a stream survives the loss of the one that carries it, and nobody else notices."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import TENANT, Host, Overlay, running_overlay, serving, wait_for

STREAM = os.urandom(6_000_000)
PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    folder = tmp_path_factory.mktemp("failover")
    (folder / "stream").write_bytes(STREAM)
    with running_overlay(folder, others=("gateway2",)) as overlay:
        yield overlay


@pytest.fixture
def both(pair: Overlay) -> Iterator[Overlay]:
    """All daemons run, and each endpoint has a tunnel to either gateway, direct."""
    pair.up(*gateways(pair), pair.alice, pair.bob)
    wait_for("two direct tunnels each", lambda: len(direct(pair.alice)) == len(direct(pair.bob)) == 2, PATIENCE_S)
    yield pair
    pair.down()


def gateways(overlay: Overlay) -> list[Host]:
    return [overlay.gateway, *(host for host in overlay.others if host.role == "gateway")]


def direct(host: Host) -> list[str]:
    return [each["peer"] for each in host.status().get("tunnels", ()) if each["well"] and each["path"] == "direct"]


def carrier(host: Host, vni: str = "office") -> str:
    """Who carries the VNI, as the endpoint says."""
    status = host.status()
    number = next((each["vni"] for each in status.get("vnis", ()) if each["name"] == vni), 0)
    return next((each["peer"] for each in status.get("tunnels", ()) if number in each["carries"]), "")


def carrying(overlay: Overlay) -> Host:
    """The gateway that both endpoints use."""
    node = wait_for(
        "one gateway for both", lambda: carrier(overlay.alice) == carrier(overlay.bob) and carrier(overlay.alice)
    )
    return next(host for host in gateways(overlay) if host.node == node)


@contextmanager
def stream(overlay: Overlay, into: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Bob sends, and alice is silent: nothing but the sender's own packets can find the other gateway."""
    url = f"http://{overlay.address_of(overlay.bob)}:8080/stream"
    with serving(overlay.bob.namespace, folder=overlay.folder):
        process = subprocess.Popen(
            (
                *("ip", "netns", "exec", overlay.alice.namespace, "curl", "-sS", "--limit-rate", "1500k"),
                *("-o", str(into), url),
            )
        )
        try:
            wait_for("the stream's beginning", lambda: into.exists() and into.stat().st_size > 200_000)
            yield process
            assert process.wait(PATIENCE_S) == 0
            assert hashlib.sha256(into.read_bytes()).digest() == hashlib.sha256(STREAM).digest()
        finally:
            process.kill()
            process.wait()


def kill(host: Host) -> Callable[[], None]:
    host.kill()
    return host.start


def freeze(host: Host) -> Callable[[], None]:
    host.send_signal(signal.SIGSTOP)
    return lambda: host.send_signal(signal.SIGCONT)


def cut_link(host: Host) -> Callable[[], None]:
    host.run("ip", "link", "set", "eth0", "down")
    return lambda: (host.run("ip", "link", "set", "eth0", "up"), None)[1]


@pytest.mark.parametrize("fault", [kill, freeze, cut_link])
def test_a_stream_survives_its_gateway(
    both: Overlay, tmp_path: Path, fault: Callable[[Host], Callable[[], None]]
) -> None:
    first = carrying(both)
    with stream(both, tmp_path / "got"):
        repair = fault(first)
        wait_for("the other gateway", lambda: carrying(both) is not first)
    repair()


def test_a_better_gateway_is_gone_back_to_and_streams_stay(both: Overlay, tmp_path: Path) -> None:
    first = carrying(both)
    other = next(each for each in gateways(both) if each is not first)
    with stream(both, tmp_path / "got"):
        both.fabric.admin("PUT", f"/{TENANT}/gateways/{other.node}", {"priority": 10, "weight": 100})
        wait_for("the preferred gateway", lambda: carrying(both) is other, PATIENCE_S)
    both.fabric.admin("PUT", f"/{TENANT}/gateways/{other.node}", {"priority": 100, "weight": 100})
