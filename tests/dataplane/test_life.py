"""What an engine takes from the process around it, and what is left of it once it is closed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from engine_rig import ENGINES, VNI, Rig, both_ways, wait_until
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Dataplane, Mapping, Verdict

NETWORK = ip_network("10.0.0.0/8")
CALLS: dict[str, Callable[[Dataplane], object]] = {
    "event_fd": lambda engine: engine.event_fd,
    "set_udp": lambda engine: engine.set_udp(-1),
    "add_vni": lambda engine: engine.add_vni(1, 0),
    "remove_vni": lambda engine: engine.remove_vni(VNI),
    "add_route": lambda engine: engine.add_route(VNI, NETWORK, 0),
    "remove_route": lambda engine: engine.remove_route(VNI, NETWORK),
    "add_mapping": lambda engine: engine.add_mapping(VNI, Mapping(NETWORK, 1, NETWORK)),
    "remove_mapping": lambda engine: engine.remove_mapping(VNI, Mapping(NETWORK, 1, NETWORK)),
    "set_router": lambda engine: engine.set_router(VNI, ip_address("10.0.0.1")),
    "add_session": lambda engine: engine.add_session(VNI),
    "set_remote": lambda engine: engine.set_remote(1, 1),
    "cut_session": lambda engine: engine.cut_session(1),
    "add_lease": lambda engine: engine.add_lease(1, NETWORK),
    "cut_sessions": lambda engine: engine.cut_sessions([1]),
    "set_deadline": lambda engine: engine.set_deadline(1, 0),
    "install_keys": lambda engine: engine.install_keys(both_ways(1, epoch=9)),
    "retire_receive": lambda engine: engine.retire_receive(0, [1]),
    "use_relay": lambda engine: engine.use_relay(1, 1, False),
    "use_direct": lambda engine: engine.use_direct(1, ("127.0.0.1", 1), False),
    "set_limit": lambda engine: engine.set_limit(1, 0),
    "session_stats": lambda engine: engine.session_stats(1),
    "session_offences": lambda engine: engine.session_offences(1),
    "send_control": lambda engine: engine.send_control(1, DatagramType.PROBE, b""),
    "add_relay": lambda engine: engine.add_relay(9),
    "remove_relay": lambda engine: engine.remove_relay(1),
    "take_relay": lambda engine: engine.take_relay(1),
    "take_relay_into": lambda engine: engine.take_relay_into(1, memoryview(bytearray(10))),
    "put_relay": lambda engine: engine.put_relay(1, b""),
    "events": lambda engine: engine.events(),
    "verdict": lambda engine: engine.verdict(1, Verdict.ALLOW, 1, 1),
    "flows": lambda engine: engine.flows(),
    "flow_pages": lambda engine: list(engine.flow_pages()),
    "find_flows": lambda engine: engine.find_flows([1]),
    "alive": lambda engine: engine.alive([1]),
    "ended": lambda engine: engine.ended(),
    "ended_pages": lambda engine: list(engine.ended_pages()),
    "settle": lambda engine: engine.settle(),
    "flush": lambda engine: engine.flush(),
    "counters": lambda engine: engine.counters(),
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_closed_engine_says_so(rig: Rig, call: str) -> None:
    rig.engine.close()
    rig.engine.close()
    with pytest.raises(OSError, match="closed") as raised:
        CALLS[call](rig.engine)
    assert raised.value.errno == errno.EBADF


def signals_blocked(thread: str) -> int:
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")), 16)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_the_threads_take_no_signal_from_the_program(name: str) -> None:
    before = set(os.listdir("/proc/self/task"))
    engine = ENGINES[name]()
    threads = set(os.listdir("/proc/self/task")) - before
    try:
        assert threads
        expected = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}
        wanted = sum(1 << number - 1 for number in expected)
        wait_until(lambda: all(signals_blocked(thread) & wanted == wanted for thread in threads))
    finally:
        engine.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & expected
