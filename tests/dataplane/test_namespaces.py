"""Two engines, two kernels' worth of network stack, real TUNs: what applications see through a tunnel.

Needs root (network namespaces) and /dev/net/tun.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from engine_rig import wait_until
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Dataplane, Flow, Verdict, load
from kairos_dataplane.pure.packet import checksum
from two_hosts import Host, inside, sh, two_hosts

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="network namespaces need root and /dev/net/tun"
)
MAKERS: dict[str, Callable[[], Dataplane]] = {"c": lambda: load("c"), "pure": lambda: load("pure")}
DENIED_PORT = 666
Pair = tuple[Host, Host]


def judge(flow: Flow) -> Verdict:
    return Verdict.DENY if flow.dst_port == DENIED_PORT else Verdict.ALLOW


@pytest.fixture(params=sorted(MAKERS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with two_hosts(MAKERS[request.param], judge) as hosts:
        yield hosts


@pytest.fixture
def c_pair() -> Iterator[Pair]:
    with two_hosts(MAKERS["c"], judge) as hosts:
        yield hosts


class Stream:
    """A TCP connection between two hosts that carries known bytes one way, both ends in threads."""

    def __init__(self, a: Host, b: Host, version: int = 4, port: int = 5001) -> None:
        self.listener = b.socket(version=version)
        self.listener.bind((b.address(version), port))
        self.listener.listen()
        self.sender = a.socket(version=version)
        self.sender.connect((b.address(version), port))
        self.receiver, _ = self.listener.accept()
        self.receiver.settimeout(60)

    def carry(self, size: int, during: Callable[[], None] = lambda: None) -> None:
        """Sends `size` random bytes and fails unless the same bytes arrive."""
        digests: dict[str, str] = {}
        threads = [threading.Thread(target=self._send, args=(size, digests))]
        threads.append(threading.Thread(target=self._receive, args=(digests,)))
        for thread in threads:
            thread.start()
        during()
        for thread in threads:
            thread.join(60)
        assert digests["sent"] == digests["received"]

    def _send(self, size: int, digests: dict[str, str]) -> None:
        digest, source = hashlib.sha256(), random.Random(1)
        block = source.randbytes(1 << 18)
        for at in range(0, size, len(block)):
            piece = at.to_bytes(8) + block[: min(len(block), size - at)]
            digest.update(piece)
            self.sender.sendall(piece)
        digests["sent"] = digest.hexdigest()
        self.sender.shutdown(socket.SHUT_WR)

    def _receive(self, digests: dict[str, str]) -> None:
        digest = hashlib.sha256()
        while data := self.receiver.recv(1 << 20):
            digest.update(data)
        digests["received"] = digest.hexdigest()

    def close(self) -> None:
        for sock in (self.sender, self.receiver, self.listener):
            sock.close()


@pytest.mark.parametrize("version", [4, 6])
def test_ping(pair: Pair, version: int) -> None:
    a, b = pair
    assert " 0% packet loss" in a.run(f"ping -c 3 -i 0.05 -W 5 {b.address(version)}").stdout
    assert " 0% packet loss" in b.run(f"ping -c 3 -i 0.05 -W 5 {a.address(version)}").stdout


@pytest.mark.parametrize("version", [4, 6])
def test_a_tcp_stream_arrives_byte_for_byte(pair: Pair, version: int) -> None:
    a, b = pair
    with closing(Stream(a, b, version)) as stream:
        stream.carry(8 << 20 if a.dataplane.name == "pure" else 256 << 20)
    assert b.dataplane.counters()["drop_bad_segment"] == 0


def test_udp_datagrams_of_every_size_arrive(pair: Pair) -> None:
    a, b = pair
    with closing(b.socket(socket.SOCK_DGRAM)) as server, closing(a.socket(socket.SOCK_DGRAM)) as client:
        server.bind((b.address(), 5002))
        client.connect((b.address(), 5002))
        client.send(b"first")  # opens the flow
        _, sender = server.recvfrom(100)
        for size in (0, 1, 100, 1351, 1352, 1353, 4000, 20000):  # 1352 fills the MTU; above, IP makes fragments
            client.send(b"x" * size)
            assert len(server.recv(30000)) == size
            server.sendto(b"y" * size, sender)
            assert len(client.recv(30000)) == size


def test_segmented_udp_arrives_as_datagrams(c_pair: Pair) -> None:
    a, b = c_pair
    with closing(b.socket(socket.SOCK_DGRAM)) as server, closing(a.socket(socket.SOCK_DGRAM)) as client:
        server.bind((b.address(), 5003))
        client.connect((b.address(), 5003))
        client.send(b"first")
        server.recv(100)
        client.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
        client.send(b"".join(bytes([n]) * 1000 for n in range(10)) + b"tail")
        assert [server.recv(2000) for _ in range(11)] == [bytes([n]) * 1000 for n in range(10)] + [b"tail"]


def test_a_packet_above_the_mtu_with_df_is_told_so(pair: Pair) -> None:
    a, b = pair
    refused = a.run(f"ping -c 1 -W 2 -M do -s 1400 {b.address()}")
    assert "too long" in refused.stdout + refused.stderr
    assert a.run(f"ping -c 1 -W 5 {b.address()}").returncode == 0
    assert a.run(f"ping -c 3 -i 0.1 -W 1 -s 4000 {b.address()}").returncode == 0


def forge_fragmentation_needed(victim: Host, sender: Host, mtu: int) -> None:
    """What anyone who can send ICMP says of the victim's datagrams to the sender."""
    ends = [ip_address(f"10.78.0.{host.side + 1}").packed for host in (victim, sender)]
    quoted = struct.pack("!BBHHHBBH", 0x45, 0, 1400, 0, 0x4000, 64, 17, 0) + ends[0] + ends[1]
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted + struct.pack("!HHHH", 7000, 7000, 1380, 0)
    with inside(sender.name), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(body[:2] + checksum(body).to_bytes(2) + body[4:], (str(ip_address(ends[0])), 0))


def test_a_forged_icmp_error_changes_nothing(pair: Pair) -> None:
    """Neither segmentation offload nor the size of what is sent; nor once a probe was sent."""
    a, b = pair
    for _ in range(2):
        forge_fragmentation_needed(a, b, 600)
        assert " mtu " not in a.run("ip route get 10.78.0.2").stdout
        with closing(Stream(a, b)) as stream:
            stream.carry(1 << 20)
        sent = a.run("cat /proc/net/snmp").stdout.splitlines()
        names, values = (line.split()[1:] for line in sent if line.startswith("Ip:"))
        assert dict(zip(names, values, strict=True))["FragCreates"] == "0"
        a.dataplane.send_control(a.session, DatagramType.PROBE, b"probe", size=1_200)


def test_a_denied_connection_is_refused_at_once(pair: Pair) -> None:
    a, b = pair
    with closing(a.socket()) as client, pytest.raises(ConnectionRefusedError):
        client.connect((b.address(), DENIED_PORT))
    with closing(a.socket(socket.SOCK_DGRAM)) as client:
        client.connect((b.address(), DENIED_PORT))
        client.send(b"x")
        with pytest.raises(OSError, match="No route to host"):  # ICMP's answer to the datagram
            client.recv(1)
    counters = a.dataplane.counters()
    assert counters["flows_denied"] >= 2
    assert counters["drop_denied"] >= 2
    assert counters["rejects_sent"] >= 2
    assert b.asked == []  # it did not even leave


def answer_and_wait(sock: socket.socket) -> None:
    """Either may tell of the reset: an acknowledgement of the kernel may have met it before."""
    sock.send(b"back")
    sock.recv(1)


def test_a_live_connection_is_cut_by_a_new_verdict(pair: Pair) -> None:
    a, b = pair
    with closing(Stream(a, b)) as stream:
        stream.sender.send(b"alive")
        assert stream.receiver.recv(100) == b"alive"
        (flow,) = (flow for flow in b.dataplane.flows() if flow.dst_port == 5001)
        assert b.dataplane.verdict(flow.id, Verdict.DENY, 8, 2)
        stream.sender.send(b"more")
        with pytest.raises(ConnectionResetError):
            stream.sender.recv(1)
        with pytest.raises(ConnectionResetError):
            answer_and_wait(stream.receiver)


def test_rekeying_under_load_loses_no_byte(c_pair: Pair) -> None:
    a, b = c_pair

    def rekey() -> None:
        for epoch in range(1, 40):
            for host in (a, b):
                host.install_receive(epoch)
            for host in (a, b):
                host.install_transmit(epoch)
            sent = a.dataplane.session_stats(a.session)[0]
            wait_until(lambda sent=sent: a.dataplane.session_stats(a.session)[0] > sent + 500)  # type: ignore[misc]
            for sender, receiver in ((a, b), (b, a)):  # what is under way has come: on a busy machine it may lag
                under_way = sender.dataplane.counters()["tx_datagrams"]
                wait_until(lambda to=receiver, last=under_way: to.dataplane.counters()["rx_datagrams"] >= last)  # type: ignore[misc]
            for host in (a, b):
                if epoch >= 3:
                    host.dataplane.retire_receive(epoch - 3, [host.session])

    with closing(Stream(a, b)) as stream:
        stream.carry(512 << 20, during=rekey)
    for host in (a, b):
        counters = host.dataplane.counters()
        assert {name: counters[name] for name in ("drop_auth", "drop_replay", "drop_unknown_epoch")} == {
            "drop_auth": 0,
            "drop_replay": 0,
            "drop_unknown_epoch": 0,
        }


def test_a_stream_moves_between_relay_and_direct_path(c_pair: Pair) -> None:
    a, b = c_pair
    stop = threading.Event()

    def pump(source: Host, target: Host) -> None:
        """The relay: whatever one host queues, the other gets."""
        while not stop.is_set():
            if frame := source.dataplane.take_relay(1):
                target.dataplane.put_relay(1, frame)
            else:
                os.sched_yield()

    for host in (a, b):
        host.dataplane.add_relay(1)
        host.dataplane.use_relay(host.session, 1, follow=host is b)
    pumps = [threading.Thread(target=pump, args=pair) for pair in ((a, b), (b, a))]
    for thread in pumps:
        thread.start()

    def switch() -> None:
        for number in range(6):
            sent = a.dataplane.session_stats(a.session)[0]
            wait_until(lambda sent=sent: a.dataplane.session_stats(a.session)[0] > sent + 2000)  # type: ignore[misc]
            if number % 2:
                a.dataplane.use_relay(a.session, 1, follow=False)
            else:
                a.dataplane.use_direct(a.session, ("10.78.0.2", 7000), follow=False, relay=1)

    try:
        with closing(Stream(a, b)) as stream:
            stream.carry(128 << 20, during=switch)
    finally:
        stop.set()
        for thread in pumps:
            thread.join()
    counters = b.dataplane.counters()
    assert counters["rx_datagrams"] > 0
    assert counters["rx_relay_datagrams"] > 0


def test_a_lossy_link_costs_time_and_no_byte(c_pair: Pair) -> None:
    a, b = c_pair
    if sh(f"ip netns exec {a.name} tc qdisc add dev kdv0 root netem loss 1%", check=False).returncode:
        rule = "add table inet loss; add chain inet loss in { type filter hook input priority 0; };"
        rule += " add rule inet loss in udp dport 7000 numgen random mod 100 == 0 drop"
        sh(f"ip netns exec {b.name} nft '{rule}'")
    with closing(Stream(a, b)) as stream:
        stream.carry(16 << 20)


def test_a_tun_that_is_taken_away_does_not_stop_the_engine(pair: Pair) -> None:
    a, b = pair
    assert a.run(f"ping -c 1 -W 5 {b.address()}").returncode == 0
    sh(f"ip -n {a.name} link del tun0")
    received = a.dataplane.session_stats(a.session)[1]
    b.dataplane.send_control(b.session, 4, b"still there?")
    wait_until(lambda: a.dataplane.session_stats(a.session)[1] > received)
