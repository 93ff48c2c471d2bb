"""Hosts made of network namespaces, and the daemons on them.

                  fabric 10.90.0.2
                      │
alice 10.90.0.11 ── internet (a bridge) ── bob 10.90.0.12
                      │
              gateway 10.90.0.3
              192.168.50.1
                      │  office
                 web 192.168.50.10
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kairos.errors import KairosError

PREFIX = "kairos-"
INTERNET = {"fabric": "10.90.0.2", "gateway": "10.90.0.3", "alice": "10.90.0.11", "bob": "10.90.0.12"}
OFFICE = {"gateway": "192.168.50.1", "web": "192.168.50.10"}
MANY = {"gateway2": "10.90.0.4", "carol": "10.90.0.13", "dave": "10.90.0.14", "erin": "10.90.0.15"}
FLOOR = {"gateway": "192.168.70.1", "printer": "192.168.70.10"}
_STOP_S = 10.0


@dataclass(frozen=True)
class Wiring:
    """hosts: their addresses by network, each a /24. routers: who leads a host out of its network."""

    hosts: Mapping[str, Mapping[str, str]]
    routers: Mapping[str, str] = field(default_factory=dict)


OFFICE_WIRING = Wiring({"internet": INTERNET, "office": OFFICE}, {"web": OFFICE["gateway"]})
MANY_WIRING = Wiring({"internet": INTERNET | MANY, "floor": FLOOR}, {"printer": FLOOR["gateway"]})


class DemoError(KairosError):
    """A step of the demo did not hold; the text says what was seen."""


def ip(*arguments: str) -> None:
    """One `ip` command. Raises DemoError with its own words."""
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")


class Daemon:
    """A process on a host, its output in a log file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM, and the time to clean up. Raises DemoError when it will not end."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoError(f"{self.name} did not stop within {_STOP_S:.0f} s of SIGTERM") from None

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        self._process.kill()
        self._process.wait()

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Host:
    """One namespace with a loopback; links are added by Lab."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.namespace = PREFIX + name
        self.folder = folder / name
        self.folder.mkdir()
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command line that runs `arguments` on this host."""
        return ("ip", "netns", "exec", self.namespace, *arguments)

    def run(
        self, *arguments: str, environment: dict[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end; the caller judges the exit code."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(environment or {})},
        )

    def start(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> Daemon:
        """Starts a daemon in a session of its own, so that Ctrl-C reaches only us."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        return Daemon(f"{name} on {self.name}", process, log)


class Lab:
    """All hosts and their links. A context manager: what it made is gone at the end, unless `keep`."""

    def __init__(self, wiring: Wiring) -> None:
        self.keep = False
        self._wiring = wiring
        self.folder = Path(tempfile.mkdtemp(prefix="kairos-demo-"))
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Lab:
        if left := namespaces():
            raise DemoError(f"a demo is still here ({', '.join(left)}); remove it with: kairos demo --remove")
        try:
            for network, addresses in self._wiring.hosts.items():
                self._wire(network, addresses)
            for name, router in self._wiring.routers.items():
                self._default_route(name, router)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            self.remove()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def remove(self) -> None:
        """Ends every process and namespace, and the folder of states and logs."""
        remove_namespaces()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wire(self, network: str, addresses: Mapping[str, str]) -> None:
        """A bridge in a namespace of its own, and one cable to each host."""
        switch = self._host(network)
        ip("-n", switch.namespace, "link", "add", "name", "switch", "type", "bridge")
        ip("-n", switch.namespace, "link", "set", "switch", "up")
        for name, address in addresses.items():
            host = self._host(name)
            ip(
                "-n",
                host.namespace,
                "link",
                "add",
                network,
                "type",
                "veth",
                "peer",
                "name",
                name,
                "netns",
                switch.namespace,
            )
            ip("-n", switch.namespace, "link", "set", name, "master", "switch", "up")
            ip("-n", host.namespace, "addr", "add", f"{address}/24", "dev", network)
            ip("-n", host.namespace, "link", "set", network, "up")

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name, self.folder)
        return self.hosts[name]

    def _default_route(self, name: str, via: str) -> None:
        ip("-n", self.hosts[name].namespace, "route", "add", "default", "via", via)


def namespaces() -> list[str]:
    """The demo's namespaces that exist now."""
    listed = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout
    names = (line.split()[0] for line in listed.splitlines() if line.strip())
    wirings = (OFFICE_WIRING, MANY_WIRING)
    wanted = {
        PREFIX + name
        for wiring in wirings
        for network, addresses in wiring.hosts.items()
        for name in (network, *addresses)
    }
    return [name for name in names if name in wanted]


def remove_namespaces() -> None:
    """Kills what runs in them, then deletes them."""
    names = namespaces()
    _signal_all(names, signal.SIGTERM)
    for name in names:
        for pid in _processes(name):
            _wait_gone(pid)
    for name in names:
        ip("netns", "delete", name)


def _signal_all(names: Sequence[str], number: signal.Signals) -> None:
    for name in names:
        for pid in _processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _processes(namespace: str) -> list[int]:
    listed = subprocess.run(("ip", "netns", "pids", namespace), capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in listed.split()]


def _wait_gone(pid: int) -> None:
    """Waits for a process through its pidfd; after the grace it is killed. Our own children are reaped."""
    import select

    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([handle], [], [], _STOP_S)[0]:
            os.kill(pid, signal.SIGKILL)
            select.select([handle], [], [], _STOP_S)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    finally:
        os.close(handle)
