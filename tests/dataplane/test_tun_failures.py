"""A TUN that cannot be read is tried again, and Python is told when that lasts."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from engine_rig import HOST, PEER, Rig, udp_packet, wait_until
from kairos_dataplane import Event, TunFailing
from kairos_dataplane.pure.segments import Offload

OTHER = 8


def test_one_failure_is_not_the_end(rig: Rig) -> None:
    """A connected UDP socket is the TUN: what the engine writes to a closed port fails its next read, once."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tun,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
    ):
        tun.bind(("127.0.0.1", 0))
        host.bind(("127.0.0.1", 0))
        address = host.getsockname()
        tun.connect(address)
        tun.setblocking(False)
        host.close()
        rig.engine.add_vni(OTHER, tun.fileno())
        tun.send(b"refused")
        wait_until(lambda: rig.counted().get("tun_read_errors") == 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind(address)
            back.connect(tun.getsockname())
            back.send(Offload().pack() + udp_packet(HOST, PEER, b"still here"))
            wait_until(lambda: rig.counted().get("flows_opened") == 1)
    assert [flow.vni for flow in rig.opened()] == [OTHER]


def test_a_tun_that_is_no_descriptor_is_refused(rig: Rig) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        rig.engine.add_vni(OTHER, writer)
    assert error.value.errno == errno.EBADF


def test_a_lasting_failure_is_told_once_and_costs_little(rig: Rig) -> None:
    """The wrong end of a pipe: ready for ever once its reader is gone, and never readable."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    rig.engine.add_vni(OTHER, writer)
    os.close(reader)
    told: list[Event] = []

    def is_told() -> bool:
        told.extend(rig.events())
        return bool(told)

    wait_until(is_told)
    assert told == [TunFailing(OTHER, errno.EBADF)]
    assert 4 <= rig.counted()["tun_read_errors"] <= 5
    rig.engine.remove_vni(OTHER)
    rig.engine.add_vni(OTHER, writer)
    wait_until(lambda: rig.counted()["tun_read_errors"] > 5)
    os.close(writer)


def test_the_end_of_a_lasting_failure_is_told(rig: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tun:
        tun.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
            host.bind(("127.0.0.1", 0))
            address = host.getsockname()
        tun.connect(address)
        tun.setblocking(False)
        rig.engine.add_vni(OTHER, tun.fileno())
        for failures in range(1, 5):
            tun.send(b"refused")
            wait_until(lambda: rig.counted().get("tun_read_errors", 0) >= failures)  # noqa: B023
        assert rig.events() == [TunFailing(OTHER, errno.ECONNREFUSED)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind(address)
            back.connect(tun.getsockname())
            back.send(Offload().pack() + udp_packet(HOST, PEER, b"still here"))
            wait_until(lambda: rig.counted().get("flows_opened") == 1)
        assert rig.events()[0] == TunFailing(OTHER, 0)


def test_a_closed_end_is_a_failure_too(rig: Rig) -> None:
    rig.tun.close()
    wait_until(lambda: rig.counted().get("tun_read_errors", 0) >= 4)
    assert TunFailing(7, errno.ENODEV) in rig.events()


def test_a_packet_without_a_packet_is_counted(rig: Rig) -> None:
    rig.tun.send(Offload().pack())
    rig.tun.send(b"x")
    rig.from_host(udp_packet(HOST, PEER, b"next"))
    assert rig.drops() == {"drop_bad_packet": 2}
