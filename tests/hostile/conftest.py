"""Two real node ends, each with its data plane in a namespace of its own, and a relay between them that does as it likes."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest
from pyroute2 import netns

from hostile_relay import Site
from kairos_dataplane import load
from kairos_dataplane.tun import open_tun


@contextmanager
def _site(name: str, number: int) -> Iterator[Site]:
    """One end's namespace: a TUN for VNI 1, and a UDP socket on its address."""
    namespace = f"kh-{name}-{os.getpid()}"
    address = f"10.7.0.{number}"
    subprocess.run(("ip", "netns", "add", namespace), check=True)
    dataplane = load("c")
    try:
        netns.pushns(namespace)
        try:
            tun = open_tun("tun0")
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for command in (f"addr add {address}/24 dev tun0", "link set tun0 up mtu 1380"):
                subprocess.run(("ip", *command.split()), check=True)
            sock.bind((address, 9))
        finally:
            netns.popns()
        sock.settimeout(0.0)
        dataplane.add_vni(1, tun)
        dataplane.add_route(1, ip_network(f"{address}/32"), 0)
        yield Site(address, dataplane, sock)
        sock.close()
        os.close(tun)
    finally:
        dataplane.close()
        subprocess.run(("ip", "netns", "del", namespace), check=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends give a silent peer one second in place of ten: where a frame is lost, that is how it ends."""
    monkeypatch.setattr("kairos.protocol.tunnel.HANDSHAKE_WAIT_S", 1.0)
    monkeypatch.setattr("kairos_node.tunnel.HANDSHAKE_WAIT_S", 1.0)


@pytest.fixture(scope="session")
def sites() -> Iterator[tuple[Site, Site]]:
    """The endpoint's and the gateway's."""
    with _site("ep", 5) as endpoint, _site("gw", 1) as gateway:
        yield endpoint, gateway
