"""The fabric is gone: tunnels go on to the end of their session, and then nothing is open (docs/operations.md, outages)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from nonsense import talking_nonsense

from overlay import Overlay, running_overlay, wait_for

LIFE_S = 15
PATIENCE_S = 3.0 * LIFE_S


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    with running_overlay(tmp_path_factory.mktemp("outages"), session_life_s=LIFE_S) as overlay:
        yield overlay


@pytest.fixture
def overlay(brief: Overlay) -> Iterator[Overlay]:
    try:
        brief.up(brief.gateway, brief.alice)
        wait_for("traffic", lambda: brief.alice.reaches(brief.address_of(brief.gateway)))
        yield brief
    finally:
        brief.down()


@contextmanager
def frozen(*groups: int) -> Iterator[None]:
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


@contextmanager
def nonsensical(overlay: Overlay) -> Iterator[None]:
    url = urlsplit(overlay.fabric.operator.url)
    overlay.fabric.fabric.kill("control")
    try:
        with talking_nonsense(url.hostname or "", url.port or 0):
            yield
    finally:
        overlay.fabric.fabric.restart("control")


def ended(overlay: Overlay) -> None:
    """Returns when the gateway has no tunnel any more."""
    try:
        wait_for("the end of the tunnel", lambda: overlay.gateway.status().get("tunnels") == [], PATIENCE_S)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *overlay.gateway.lines[-30:]])) from None


def came_back(overlay: Overlay) -> None:
    try:
        wait_for("the tunnel's return", lambda: overlay.alice.reaches(overlay.address_of(overlay.gateway)), PATIENCE_S)
    except AssertionError as error:
        said = [str(error), *overlay.gateway.lines[-20:], "-- alice", *overlay.alice.lines[-20:]]
        raise AssertionError("\n".join(said)) from None


def test_a_fabric_that_talks_nonsense_ends_tunnels_with_their_sessions_and_opens_none(overlay: Overlay) -> None:
    """Both daemons live on, and all is back when the fabric is."""
    gateway = overlay.address_of(overlay.gateway)
    session = overlay.alice.tunnel()["session"]
    with nonsensical(overlay):
        assert overlay.alice.tunnel()["session"] == session
        ended(overlay)
        wait_for("silence", lambda: not overlay.alice.reaches(gateway), PATIENCE_S)
        for host in (overlay.gateway, overlay.alice):
            assert host.running, "\n".join(host.lines[-20:])
        assert not overlay.gateway.tunnel()
    came_back(overlay)


def test_the_gateway_ends_a_session_by_its_own_clock(overlay: Overlay) -> None:
    """Fabric, relay and endpoint are frozen, so nobody tells it to."""
    fabric = overlay.fabric.fabric
    alice = overlay.alice.process
    with frozen(fabric.group("control"), fabric.group("relay")):
        alice.send_signal(signal.SIGSTOP)
        try:
            ended(overlay)
        finally:
            alice.send_signal(signal.SIGCONT)
    came_back(overlay)


@contextmanager
def killed(overlay: Overlay) -> Iterator[None]:
    overlay.fabric.fabric.kill("control")
    try:
        yield
    finally:
        overlay.fabric.fabric.restart("control")


def test_while_the_fabric_is_away_only_a_token_that_is_still_good_makes_a_tunnel(whole: Overlay) -> None:
    alice, address = whole.alice, whole.address_of(whole.gateway)
    try:
        whole.up(whole.gateway, alice)
        wait_for("traffic", lambda: alice.reaches(address))
        session = alice.tunnel()["session"]
        with killed(whole):
            alice.tell("reconnect")
            alice.await_line("the fabric is away; session")
            wait_for("a tunnel", lambda: alice.tunnel().get("session") == session, PATIENCE_S)
            wait_for("traffic without the fabric", lambda: alice.reaches(address))
            alice.kill()
            alice.start()  # the token was in its memory
            alice.await_line("no tunnel to")
            assert not alice.tunnel()
        wait_for("traffic with the fabric", lambda: alice.reaches(address), PATIENCE_S)
    finally:
        whole.down()
