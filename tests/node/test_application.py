"""Whose socket is it? Asked of the real kernel, about real sockets of real processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from kairos.policy.input import UNIT_IN_DOUBT, Application
from kairos_node.application import Address, Applications, unit_of

TCP, UDP = 6, 17
End = tuple[Address, int]


def end(name: tuple[object, ...]) -> End:
    return ip_address(str(name[0]).removeprefix("::ffff:")), int(str(name[1]))


def ends(opened: socket.socket) -> tuple[End, End]:
    return end(opened.getsockname()), end(opened.getpeername())


def ours() -> Application:
    """This process, by another way."""
    lines = Path("/proc/self/cgroup").read_text().split()
    unit = next((line.rpartition("/")[2] for line in lines if line.endswith((".service", ".scope"))), "")
    sha256 = hashlib.sha256(Path("/proc/self/exe").read_bytes()).hexdigest()
    return Application(os.path.realpath(sys.executable), os.getuid(), unit, sha256)


@contextmanager
def listening(family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[str, int]]:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        yield server.getsockname()[:2]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_is_its_programs(family: socket.AddressFamily) -> None:
    with listening(family) as address, socket.create_connection(address) as opened:
        assert Applications().of(TCP, *ends(opened)) == ours()


def test_ipv4_out_of_an_ipv6_socket() -> None:
    with listening() as address, socket.socket(socket.AF_INET6) as opened:
        opened.connect((f"::ffff:{address[0]}", address[1]))
        assert Applications().of(TCP, *ends(opened)) == ours()


def test_the_first_packet_is_enough() -> None:
    """SYN sent, nothing answered, as the listener's queue is full: the moment at which a verdict is asked for."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()[:2]
        with socket.create_connection(address), socket.socket() as opened:
            opened.setblocking(False)
            opened.connect_ex(address)
            assert Applications().of(TCP, end(opened.getsockname()), end(address)) == ours()
            with pytest.raises(OSError, match="not connected"):
                opened.getpeername()


@pytest.mark.parametrize("connected", [True, False])
def test_udp(connected: bool) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as opened:
        if connected:
            opened.connect(("127.0.0.1", 9))
        else:
            opened.sendto(b"x", ("127.0.0.1", 9))
        source = end(("127.0.0.1", opened.getsockname()[1]))
        assert Applications().of(UDP, source, end(("127.0.0.1", 9))) == ours()


def test_a_socket_that_is_gone_is_nobodys() -> None:
    with listening() as address, socket.create_connection(address) as opened:
        both = ends(opened)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed without TIME_WAIT
    assert Applications().of(TCP, *both) is None


@contextmanager
def program_with_a_socket(path: Path) -> Iterator[tuple[End, End]]:
    """A program of that path holds the only descriptor of a connection."""
    shutil.copy(shutil.which("sleep") or "", path)
    with listening() as address:
        with socket.create_connection(address) as opened:
            both = ends(opened)
            process = subprocess.Popen((path, "60"), pass_fds=(opened.fileno(),))
        try:
            yield both
        finally:
            process.kill()
            process.wait()


def test_another_program_is_told_apart_and_remembered(tmp_path: Path) -> None:
    applications = Applications()
    with program_with_a_socket(tmp_path / "one") as of_one, program_with_a_socket(tmp_path / "two") as of_two:
        for _ in range(2):
            for both, name in ((of_one, "one"), (of_two, "two")):
                found = applications.of(TCP, *both)
                assert found is not None
                assert found.path == str(tmp_path / name)


def test_a_program_that_was_replaced_has_no_path(tmp_path: Path) -> None:
    """Its path now names another file, which a grant may mean."""
    path = tmp_path / "program"
    with program_with_a_socket(path) as both:
        path.unlink()
        shutil.copy(shutil.which("true") or "", path)
        found = Applications().of(TCP, *both)
        assert found is not None
        assert found.path == ""


def test_a_socket_that_two_programs_hold_is_neithers(tmp_path: Path) -> None:
    """A program that starts another one with its socket is not that one, nor the other way round."""
    shutil.copy(shutil.which("sleep") or "", tmp_path / "allowed")
    with listening() as address, socket.create_connection(address) as opened:
        with subprocess.Popen((tmp_path / "allowed", "60"), pass_fds=(opened.fileno(),)) as process:
            found = Applications().of(TCP, *ends(opened))
            process.kill()
        assert found is not None
        assert (found.path, found.sha256, found.uid) == ("", "", os.getuid())
        assert Applications().of(TCP, *ends(opened)) == ours()


def test_the_opener_that_was_found_first_does_not_hide_its_child(tmp_path: Path) -> None:
    shutil.copy(shutil.which("sleep") or "", tmp_path / "denied")
    applications = Applications()
    with listening() as address, socket.create_connection(address) as opened:
        assert applications.of(TCP, *ends(opened)) == ours()  # and remembered
        with subprocess.Popen((tmp_path / "denied", "60"), pass_fds=(opened.fileno(),)) as process:
            found = applications.of(TCP, *ends(opened))
            process.kill()
    assert found is not None
    assert found.path == ""


def test_a_socket_whose_holder_nobody_sees_is_in_doubt() -> None:
    """Its only descriptor is on its way from one socket to another."""
    here, there = socket.socketpair()
    with here, there, listening() as address:
        with socket.create_connection(address) as opened:
            both = ends(opened)
            socket.send_fds(here, [b"x"], [opened.fileno()])
        found = Applications().of(TCP, *both)
    assert found == Application("", os.getuid(), UNIT_IN_DOUBT, "")


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service"),
        ("0::/system.slice/nginx.service/worker/own.service\n", "nginx.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service\n",
            "user@1000.service/nginx.service",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/system.slice/nginx.service\n",
            "user@1000.service/nginx.service",
        ),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "user@1000.service/init.scope"),
        ("0::/\n", ""),
        ("0::/init.scope\n", "init.scope"),
        ("12:cpu:/x/fake.service\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service"),
        ("0::/../../user.slice/nginx.service\n", UNIT_IN_DOUBT),
        ("0::/jobs/nginx.service\n", ""),
        ("", ""),
    ],
)
def test_a_unit_is_known_by_its_whole_place(cgroups: str, unit: str) -> None:
    assert unit_of(cgroups) == unit
