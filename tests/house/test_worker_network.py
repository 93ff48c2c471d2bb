"""Two processes that run tests at the same time do not meet: each has ports, interfaces and names of network namespaces of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = """
import os, socket, subprocess, sys
import worker_network

def interfaces():
    return {name for _, name in socket.if_nameindex()}

before = interfaces()
worker_network.enter()
assert interfaces() == set(os.listdir("/sys/class/net")), os.listdir("/sys/class/net")
assert os.listdir("/run/netns") == []
subprocess.run(("ip", "link", "add", "name", "knwn0", "type", "bridge"), check=True)
subprocess.run(("ip", "netns", "add", "kairos-worker"), check=True)
socket.create_server(("127.0.0.1", int(sys.argv[1]))).close()
with worker_network.of_the_machine():
    assert interfaces() == before
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
assert "knwn0" in interfaces()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_worker_meets_no_other() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        command = (sys.executable, "-c", INSIDE, str(elsewhere.getsockname()[1]))
        workers = [subprocess.Popen(command, env=environment) for _ in range(2)]
        assert [each.wait() for each in workers] == [0, 0]
    assert not Path("/run/netns/kairos-worker").exists()
