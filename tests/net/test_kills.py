"""Any process may be killed at any step of T and started again: it ends in a working tunnel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlay import Host, Overlay, wait_for

STEPS = ("T1", "T2", "T3", "T4", "T5", "T6")


def works(overlay: Overlay, alice: Host) -> None:
    alice.await_tunnel()
    address = overlay.address_of(overlay.gateway)
    wait_for("traffic", lambda: alice.reaches(address))


def ready_gateway(overlay: Overlay) -> None:
    """One gateway lives through the tests that do not kill it."""
    if not overlay.gateway.running:
        overlay.gateway.start()
    wait_for("the gateway at its relay", lambda: overlay.gateway.status().get("relay"))


@pytest.fixture
def overlay(whole: Overlay) -> Iterator[Overlay]:
    yield whole
    whole.alice.kill()


@pytest.fixture(scope="module", autouse=True)
def last(whole: Overlay) -> Iterator[None]:
    yield
    whole.down()


@pytest.mark.parametrize("step", STEPS)
def test_the_agent_is_killed(overlay: Overlay, step: str) -> None:
    ready_gateway(overlay)
    overlay.alice.start()
    overlay.alice.await_line(f" {step} ")
    overlay.alice.kill()
    overlay.alice.start()
    works(overlay, overlay.alice)


@pytest.mark.parametrize("step", STEPS)
def test_the_gateway_is_killed(overlay: Overlay, step: str) -> None:
    ready_gateway(overlay)
    overlay.alice.start()
    overlay.alice.await_line(f" {step} ")
    overlay.gateway.kill()
    overlay.gateway.start()
    works(overlay, overlay.alice)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("worker", ["control", "relay"])
def test_a_worker_is_killed(overlay: Overlay, worker: str, step: str) -> None:
    ready_gateway(overlay)
    overlay.alice.config.write_text('path = "relay"\n')
    overlay.alice.start()
    overlay.alice.await_line(f" {step} ")
    overlay.fabric.fabric.kill("control" if worker == "control" else "relay")
    overlay.fabric.fabric.restart("control" if worker == "control" else "relay")
    works(overlay, overlay.alice)


def test_an_idle_tunnel_comes_back_after_its_gateway_was_killed(overlay: Overlay) -> None:
    ready_gateway(overlay)
    overlay.up(overlay.alice)
    overlay.gateway.kill()
    overlay.gateway.start()
    works(overlay, overlay.alice)


def test_the_direct_path_carries_on_while_the_relay_is_away(overlay: Overlay) -> None:
    overlay.alice.config.write_text('path = "auto"\n')
    ready_gateway(overlay)
    overlay.up(overlay.alice)
    address = overlay.address_of(overlay.gateway)
    wait_for("the direct path", lambda: overlay.alice.tunnel()["path"] == "direct")
    assert overlay.alice.reaches(address)
    overlay.fabric.fabric.kill("relay")
    try:
        wait_for("the loss of the channel", lambda: overlay.alice.tunnel()["orphan"])
        shown = overlay.alice.run("ping", "-i", "0.05", "-c", "20", "-q", address).stdout
        assert " 0% packet loss" in shown
    finally:
        overlay.fabric.fabric.restart("relay")
    wait_for("a tunnel with a channel", lambda: overlay.alice.tunnel() and not overlay.alice.tunnel()["orphan"])
    assert overlay.alice.reaches(address)
