"""Two engines in two network namespaces, joined by a veth:  a 10.77.0.1 -- underlay 10.78.0.0/24 -- b 10.77.0.2

Keys are given by hand here; the tunnel machines that make them in life are tested elsewhere.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Protocol

from pyroute2 import netns

from kairos_dataplane import Dataplane, Flow, FlowOpened, SessionKey, Verdict
from kairos_dataplane.tun import open_tun

KEYS = {side: (bytes([side]) * 32, bytes([side + 10]) * 12) for side in (0, 1)}
Judge = Callable[[Flow], Verdict]


class Far(Protocol):
    """What a host must know of the other one."""

    @property
    def side(self) -> int: ...
    @property
    def session(self) -> int: ...


def sh(command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, check=check, capture_output=True, text=True, timeout=timeout)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Runs the block in a network namespace: descriptors opened there stay there."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


class Host:
    """One namespace with an engine, one VNI and one session to the other host."""

    def __init__(self, name: str, side: int, dataplane: Dataplane, judge: Judge) -> None:
        self.name, self.side, self.dataplane, self.judge = name, side, dataplane, judge
        self.asked: list[Flow] = []
        with inside(name):
            self.tun = open_tun("tun0")
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((f"10.78.0.{side + 1}", 7000))
            self.udp.setblocking(False)
        for command in (
            f"addr add 10.77.0.{side + 1}/24 dev tun0",
            f"addr add fd77::{side + 1}/64 dev tun0 nodad",
            "link set tun0 up mtu 1380 gso_max_size 62000",
        ):
            sh(f"ip -n {name} {command}")
        dataplane.add_vni(1, self.tun)
        dataplane.set_udp(self.udp.fileno())
        self.session = dataplane.add_session(1)
        for prefix in ("0.0.0.0/0", "::/0"):
            dataplane.add_route(1, ip_network(prefix), self.session)
        for prefix in (f"10.77.0.{side + 1}/32", f"fd77::{side + 1}/128"):
            dataplane.add_route(1, ip_network(prefix), 0)
        for prefix in (f"10.77.0.{2 - side}/32", f"fd77::{2 - side}/128"):
            dataplane.add_lease(self.session, ip_network(prefix))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._decide, daemon=True)

    def connect(self, other: Far, epoch: int = 0) -> None:
        self.dataplane.set_remote(self.session, other.session)
        self.install(epoch)
        self.dataplane.use_direct(self.session, (f"10.78.0.{other.side + 1}", 7000), follow=False)
        self._thread.start()

    def install(self, epoch: int) -> None:
        self.install_receive(epoch)
        self.install_transmit(epoch)

    def install_receive(self, epoch: int) -> None:
        key, iv = KEYS[1 - self.side]
        self.dataplane.install_keys(
            [SessionKey(self.session, epoch, bytes(b ^ epoch for b in key), iv, transmit=False)]
        )

    def install_transmit(self, epoch: int) -> None:
        key, iv = KEYS[self.side]
        self.dataplane.install_keys([SessionKey(self.session, epoch, bytes(b ^ epoch for b in key), iv, transmit=True)])

    def address(self, version: int = 4) -> str:
        return f"10.77.0.{self.side + 1}" if version == 4 else f"fd77::{self.side + 1}"

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM, version: int = 4) -> socket.socket:
        """A socket of this host; it stays there wherever it is used from."""
        with inside(self.name):
            made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        made.settimeout(60)
        return made

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return sh(f"ip netns exec {self.name} {command}", check=False)

    def _decide(self) -> None:
        poll = select.poll()
        poll.register(self.dataplane.event_fd, select.POLLIN)
        while not self._stop.is_set():
            if not poll.poll(50):
                continue
            events = self.dataplane.events()
            with self.dataplane.corked():
                for event in events:
                    if isinstance(event, FlowOpened):
                        self.asked.append(event.flow)
                        self.dataplane.verdict(event.flow.id, self.judge(event.flow), 7, 1)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.dataplane.close()
        self.udp.close()
        os.close(self.tun)


@contextmanager
def two_hosts(
    make: Callable[[], Dataplane], judge: Judge = lambda flow: Verdict.ALLOW, tag: str = ""
) -> Iterator[tuple[Host, Host]]:
    """tag: tells apart the pairs that live in one process at the same time."""
    names = (f"kd{tag}-a-{os.getpid()}", f"kd{tag}-b-{os.getpid()}")
    hosts: list[Host] = []
    try:
        for name in names:
            sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(f"ip link add kdv0 netns {names[0]} type veth peer name kdv0 netns {names[1]}")
        for side, name in enumerate(names):
            sh(f"ip -n {name} addr add 10.78.0.{side + 1}/24 dev kdv0 && ip -n {name} link set kdv0 up")
        hosts = [Host(name, side, make(), judge) for side, name in enumerate(names)]
        hosts[0].connect(hosts[1])
        hosts[1].connect(hosts[0])
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            host.close()
        for name in names:
            sh(f"ip netns del {name}", check=False)
