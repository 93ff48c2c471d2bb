"""`kairos proxy`: a user without root on alice's machine, and programs of his and of others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import GRANTS, TENANT, WEB, Overlay, serving, wait_for
from rootless import PROXY, SOMEBODY_ELSE, Rootless, has_namespaces

DEPOT = {"name": "depot", "prefixes": ["10.9.0.0/24", "fd09::/64"], "dns_suffix": "depot.internal"}
DEPOT_BOB = "bob.depot.internal"
INTO = ("--vni", "office", "--vni", "depot", "--vni", "lan")
ECHO = """
import socket, threading
def serve(s):
    while data := s.recv(65536):
        s.sendall(data)
    s.sendall(b"that was all")
    s.close()
server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
# A program that speaks SOCKS5 by itself: says "open", sends so much, ends its side, and tells what came back.
PROGRAM = """
import socket, sys, threading
name, size = sys.argv[1].encode(), int(sys.argv[2])
s = socket.create_connection(("127.0.0.1", 1080))
s.sendall(b"\\5\\1\\0" + b"\\5\\1\\0\\3" + bytes([len(name)]) + name + (8080).to_bytes(2))
head = b""
while len(head) < 12 and (piece := s.recv(12 - len(head))):
    head += piece
print("open" if head[3] == 0 else f"reply {head[3]}", flush=True)
def send():
    s.sendall(bytes(size))
    s.shutdown(socket.SHUT_WR)
if size:
    threading.Thread(target=send).start()
came, last = 0, b""
try:
    while data := s.recv(65536):
        came, last = came + len(data), (last + data)[-12:]
    print(came, last.decode())
except ConnectionError as error:
    print(type(error).__name__)
"""


@contextmanager
def program(alice: Rootless, name: str, size: int = 0) -> Iterator[subprocess.Popen[str]]:
    with alice.program(sys.executable, "-c", PROGRAM, name, str(size)) as process:
        try:
            yield process
        finally:
            process.kill()


def opens(alice: Rootless, name: str) -> bool:
    with program(alice, name) as process:
        return line_of(process) == "open"


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def proxied(whole: Overlay) -> Iterator[tuple[Overlay, Rootless]]:
    """The gateway, bob with an echo on 8080, and alice's device as a proxy. Of the VNIs, `depot` has a suffix."""
    if not has_namespaces():
        pytest.skip("this host gives its users no namespaces (user.max_user_namespaces, AppArmor)")
    folder = Path(tempfile.mkdtemp(prefix="kairos-proxy-"))
    whole.fabric.admin("POST", f"/{TENANT}/vnis", DEPOT)
    for host in (whole.alice, whole.bob):
        whole.fabric.admin("PUT", f"/{TENANT}/vnis/depot/members/{host.node}", {})
    rootless = Rootless(whole.alice, folder)
    rootless.options = INTO
    echo = subprocess.Popen(("ip", "netns", "exec", whole.bob.namespace, sys.executable, "-c", ECHO))
    try:
        whole.up(whole.gateway, whole.alice)
        whole.alice.stop()  # takes along what an agent of another test left that was killed
        whole.up(whole.bob, rootless)
        for host in (rootless, whole.bob):
            wait_for("depot", lambda host=host: "depot" in {vni["name"] for vni in host.status()["vnis"]})  # type: ignore[misc]
        yield whole, rootless
    finally:
        rootless.kill()
        whole.down()
        echo.kill()
        echo.wait()
        whole.fabric.admin("DELETE", f"/{TENANT}/vnis/depot")
        shutil.rmtree(folder)


def test_a_user_reaches_what_policy_allows_and_the_host_has_no_part_in_it(proxied: tuple[Overlay, Rootless]) -> None:
    overlay, alice = proxied
    with serving(overlay.bob.namespace.replace("bob", "web")):
        url = f"http://{WEB}:8080/cli.md"
        for proxy in (f"socks5h://{PROXY}", f"socks5h://lan:x@{PROXY}", f"http://{PROXY}", f"http://lan:x@{PROXY}"):
            done = alice.curl("-p", "-x", proxy, url)
            assert "kairos proxy" in done.stdout, (proxy, done.stderr, alice.lines[-20:])
        for end in (alice, overlay.gateway):  # not ours: whose connection it is
            programs = {flow["program"] for flow in end.tell("flows") if f"{WEB}:8080" in flow["flow"]}
            assert any(each.endswith("/curl") for each in programs), programs
        assert alice.curl("-m", "2", url).returncode
        stranger = alice.curl("-x", f"socks5h://{PROXY}", url, who=SOMEBODY_ELSE)
    assert stranger.returncode
    assert alice.status()["counters"]["proxy_strangers"] == 1
    assert "kairos" not in alice.run("ip", "-o", "link").stdout
    assert not alice.traces()


def test_a_refusal_says_which(proxied: tuple[Overlay, Rootless]) -> None:
    overlay, alice = proxied
    bob = overlay.address_of(overlay.bob)
    assert alice.code(f"http://{bob}:8081/") == "2"  # policy
    assert alice.code(f"http://{bob}:8081/", f"http://{PROXY}") == "403"
    assert alice.code("http://172.31.0.9/") == "3"  # no VNI leads there
    assert alice.code("http://bob.example.com/") == "3"
    assert alice.code("http://bob.depot.internal:8080/", f"socks5h://office:x@{PROXY}") == "3"
    assert alice.code(f"http://{WEB}:8080/") == "5"  # nobody listens there


def test_a_stream_is_whole_both_ways_after_one_has_ended(proxied: tuple[Overlay, Rootless]) -> None:
    """More than all buffers on the way hold, half-closed by the program; a name of the VNI, over IPv6 and IPv4."""
    _, alice = proxied
    for name in (DEPOT_BOB, "BOB.depot.internal."):
        with program(alice, name, 3_000_000) as process:
            assert process.communicate(timeout=60)[0].splitlines() == ["open", "3000012 that was all"], alice.lines[-9:]


def test_a_lost_leave_cuts_a_running_stream(proxied: tuple[Overlay, Rootless]) -> None:
    overlay, alice = proxied
    try:
        with program(alice, DEPOT_BOB) as process:
            assert line_of(process) == "open"
            overlay.push_policy({**GRANTS, "allow": GRANTS["allow"][:1]})
            assert line_of(process) == "ConnectionResetError"
    finally:
        overlay.push_policy(GRANTS)
    wait_for("the policy as it was", lambda: opens(alice, DEPOT_BOB))


def test_isolation_cuts_all_streams(proxied: tuple[Overlay, Rootless]) -> None:
    overlay, alice = proxied
    try:
        with program(alice, DEPOT_BOB) as process:
            assert line_of(process) == "open"
            overlay.fabric.admin("POST", f"/{TENANT}/devices/{alice.node}/isolate", {"reason": "stolen"})
            assert line_of(process) == "ConnectionResetError"
    finally:
        overlay.fabric.admin("POST", f"/{TENANT}/devices/{alice.node}/release", {"reason": "found"})
    wait_for("the release, everywhere", lambda: opens(alice, DEPOT_BOB))


def test_a_vni_that_is_left_takes_its_streams_along(proxied: tuple[Overlay, Rootless]) -> None:
    overlay, alice = proxied
    bob = overlay.address_of(overlay.bob)
    with program(alice, DEPOT_BOB) as leaving, program(alice, bob) as staying:
        assert [line_of(leaving), line_of(staying)] == ["open", "open"]
        overlay.fabric.admin("DELETE", f"/{TENANT}/vnis/depot/members/{alice.node}")
        assert line_of(leaving) == "ConnectionResetError"
        assert staying.poll() is None
        assert [stream["target"] for stream in alice.status()["streams"]] == [f"{bob}:8080"]


def test_without_a_tun_a_packet_socket_does(proxied: tuple[Overlay, Rootless]) -> None:
    overlay, alice = proxied
    assert alice.stop() == 0
    alice.has_tun = False
    alice.options = (*INTO, "--idle", "2")
    alice.start()
    alice.await_tunnel()
    alice.await_line("is a veth pair")
    bob = overlay.address_of(overlay.bob)
    with program(alice, bob, 3_000_000) as process:
        assert process.communicate(timeout=60)[0].splitlines() == ["open", "3000012 that was all"], alice.lines[-9:]
    assert alice.code(f"http://{bob}:8081/") == "2"
    assert alice.code(f"http://{WEB}:8080/") == "5"
    with program(alice, bob) as silent:
        assert [line_of(silent), line_of(silent)] == ["open", "ConnectionResetError"]
    assert alice.status()["counters"]["proxy_idle"] == 1
