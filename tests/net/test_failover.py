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

from kairos.protocol.failover import Rank, order
from overlay import TENANT, Host, Overlay, running_overlay, serving, wait_for

STREAM = os.urandom(6_000_000)
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    folder = tmp_path_factory.mktemp("failover")
    (folder / "stream").write_bytes(STREAM)
    with running_overlay(folder, others=("gateway2",)) as overlay:
        nodes = {host.node: Rank() for host in gateways(overlay)}
        office = order(1, nodes)
        far = next(number for number in range(100, 200) if order(number, nodes) != office)
        overlay.fabric.admin("POST", f"/{TENANT}/vnis", {"name": "far", "vni": far, "prefixes": ["10.9.0.0/24"]})
        for host in (overlay.alice, overlay.bob):
            overlay.fabric.admin("PUT", f"/{TENANT}/vnis/far/members/{host.node}", {})
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


def sessions(overlay: Overlay, gateway: str) -> list[str]:
    """Of the tunnels that both endpoints have to it: a tunnel that was lost comes back with another."""
    shown = [each for host in (overlay.alice, overlay.bob) for each in host.status()["tunnels"]]
    return [each["session"] for each in shown if each["peer"] == gateway]


def carrying(overlay: Overlay) -> Host:
    """The gateway that both endpoints use."""
    node = wait_for(
        "one gateway for both", lambda: carrier(overlay.alice) == carrier(overlay.bob) and carrier(overlay.alice)
    )
    return next(host for host in gateways(overlay) if host.node == node)


def address(host: Host, vni: str) -> str:
    record = next(each for each in host.status()["vnis"] if each["name"] == vni)
    return str(record["addresses"][0]).split("/")[0]


@contextmanager
def streams(overlay: Overlay, into: Path, *vnis: str) -> Iterator[None]:
    """In each VNI bob sends, and alice is silent: nothing but the sender's own packets can find the other gateway."""
    with serving(overlay.bob.namespace, folder=overlay.folder):
        curl = ("ip", "netns", "exec", overlay.alice.namespace, "curl", "-sS", "--limit-rate", "1500k", "-o")
        processes = {
            vni: subprocess.Popen((*curl, str(into / vni), f"http://{address(overlay.bob, vni)}:8080/stream"))
            for vni in vnis
        }
        try:
            for vni in vnis:
                got = into / vni
                wait_for("the stream's beginning", lambda got=got: got.exists() and got.stat().st_size > 200_000)  # type: ignore[misc]
            yield
            for vni, process in processes.items():
                assert process.wait(PATIENCE_S) == 0
                assert hashlib.sha256((into / vni).read_bytes()).digest() == hashlib.sha256(STREAM).digest()
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


def freeze(host: Host) -> Callable[[], None]:
    host.send_signal(signal.SIGSTOP)
    return lambda: host.send_signal(signal.SIGCONT)


def cut_link(host: Host) -> Callable[[], None]:
    host.run("ip", "link", "set", "eth0", "down")
    return lambda: (host.run("ip", "link", "set", "eth0", "up"), None)[1]


@pytest.mark.parametrize("fault", [freeze, cut_link])
def test_a_stream_survives_its_gateway(
    both: Overlay, tmp_path: Path, fault: Callable[[Host], Callable[[], None]]
) -> None:
    first = carrying(both)
    with streams(both, tmp_path, "office"):
        repair = fault(first)
        wait_for("the other gateway", lambda: carrying(both) is not first)
    repair()


def test_a_killed_gateway_is_not_felt_in_the_vnis_of_another(both: Overlay, tmp_path: Path) -> None:
    def parted() -> bool:
        return len({carrier(both.alice, "far"), carrier(both.alice), ""}) == 3 and far_of_both() != ""

    def far_of_both() -> str:
        return carrier(both.alice, "far") if carrier(both.alice, "far") == carrier(both.bob, "far") else ""

    wait_for("a gateway for each VNI", parted, PATIENCE_S)
    first, far = carrying(both), far_of_both()
    before = sessions(both, far)
    with streams(both, tmp_path, "office", "far"):
        first.kill()
        wait_for("the other gateway", lambda: carrying(both) is not first)
        assert far_of_both() == far
    assert sessions(both, far) == before


def test_a_better_gateway_is_gone_back_to_and_streams_stay(both: Overlay, tmp_path: Path) -> None:
    first = carrying(both)
    other = next(each for each in gateways(both) if each is not first)
    with streams(both, tmp_path, "office"):
        both.fabric.admin("PUT", f"/{TENANT}/gateways/{other.node}", {"priority": 10, "weight": 100})
        wait_for("the preferred gateway", lambda: carrying(both) is other, PATIENCE_S)
    both.fabric.admin("PUT", f"/{TENANT}/gateways/{other.node}", {"priority": 100, "weight": 100})
