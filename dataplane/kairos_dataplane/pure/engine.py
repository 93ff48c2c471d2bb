"""The twin engine: the same face, counters and checks as the C engine, in the same order; about a hundred times slower.

One thread waits for TUNs and the UDP socket; one lock guards everything."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv6Address, ip_address

from kairos.errors import BadMessage
from kairos.wire.datagram import CONTROL_PAYLOAD_MAX, DatagramType
from kairos_dataplane.engine import (
    COUNTERS,
    FRAME_MAX,
    LIMIT_MIN,
    NEVER,
    Address,
    Event,
    Flow,
    FlowOpened,
    Mapping,
    Network,
    Offences,
    PathKind,
    SessionKey,
    TunFailing,
    Verdict,
)
from kairos_dataplane.pure.packet import PACKET_MAX
from kairos_dataplane.pure.path import CROSSING, PacketPath, Vni
from kairos_dataplane.pure.segments import VNET_BYTES, Offload, records_untrusted
from kairos_dataplane.pure.session import SEALED_OVERHEAD, UDP_PAYLOAD_MAX, RelayQueue, Session, refused

_BATCH = 64
_CONTROL_BYTES = 64
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE, _PMTUDISC_OMIT = 10, 23, 3, 5  # <linux/in.h>, <linux/in6.h>
_EVENTS_TAKEN = 64
_AGE_EVERY_S = 1.0
_RETRY_FIRST_S, _RETRY_LAST_S, _FAILURES_TOLD = 0.1, 5.0, 4


class PureEngine(PacketPath):
    """See `Dataplane`."""

    name = "pure"
    description = "Python, cryptography"
    aead = "cryptography"

    def __init__(self, max_flows: int = 1 << 20) -> None:
        super().__init__(max_flows)
        self._last_index = 0
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._resting: set[int] = set()  # VNIs whose TUN is not waited for after a failure
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="dataplane", daemon=True)
        self._thread.start()

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def event_fd(self) -> int:
        with self._lock:
            return self._events.fd

    def close(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        with self._lock:
            for vni in list(self._vnis):
                self.remove_vni(vni)
            self.set_udp(-1)
            self._selector.close()
            self._closed = True
        os.close(self._wake_fd)
        os.close(self._events.fd)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # they are for the program that loaded us
        aged = time.monotonic()
        while not self._stopping:
            ready = self._selector.select(_RETRY_FIRST_S if self._resting else _AGE_EVERY_S)
            with self._lock:
                self._retry_tuns()
                for key, _ in ready:
                    if key.fd == self._wake_fd:
                        os.eventfd_read(self._wake_fd)
                    elif key.data is None:
                        self._read_udp()
                    elif (vni := self._vnis.get(key.data)) is not None:
                        self._read_tun(vni)
                if time.monotonic() - aged >= _AGE_EVERY_S:
                    aged = time.monotonic()
                    self._flows.age(aged)

    def _read_tun(self, vni: Vni) -> None:
        for _ in range(_BATCH):
            try:
                data = os.read(vni.tun, VNET_BYTES + PACKET_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._rest(vni, error.errno or errno.EIO)
                return
            if not data:
                self._rest(vni, errno.ENODEV)
                return
            if vni.failures >= _FAILURES_TOLD:
                self._emit((0, vni.id), TunFailing(vni.id, 0))
            vni.failures = 0
            if len(data) <= VNET_BYTES:
                self._counters["drop_bad_packet"] += 1
                continue
            self._forward(vni, None, Offload.unpack(data), data[VNET_BYTES:])

    def _rest(self, vni: Vni, error: int) -> None:
        """The TUN would be ready all the time, so it is not waited for until it is tried again."""
        self._counters["tun_read_errors"] += 1
        vni.retry = time.monotonic() + min(_RETRY_FIRST_S * 2**vni.failures, _RETRY_LAST_S)
        self._selector.unregister(vni.tun)
        self._resting.add(vni.id)
        vni.failures += 1
        if vni.failures == _FAILURES_TOLD:
            self._emit((0, vni.id), TunFailing(vni.id, error))

    def _retry_tuns(self) -> None:
        for vni in [self._vnis[vni] for vni in self._resting]:
            if vni.retry <= time.monotonic():
                self._resting.discard(vni.id)
                vni.retry = 0.0
                self._selector.register(vni.tun, selectors.EVENT_READ, vni.id)

    def _read_udp(self) -> None:
        for _ in range(_BATCH):
            if self._udp is None:
                return
            try:
                datagram, control, _, sender = self._udp.recvmsg(PACKET_MAX, _CONTROL_BYTES)
            except OSError:  # nothing more, or an ICMP error about a datagram of ours
                return
            host = ip_address(sender[0].partition("%")[0])
            mapped = host.ipv4_mapped if host.version == 6 else None
            # IP_TOS comes as one byte, IPV6_TCLASS as an int: the bits stand in the lowest byte of either.
            marks = [int.from_bytes(value, sys.byteorder) & 3 for _, _, value in control]
            self._receive(datagram, (str(mapped or host), sender[1]), 0, marks[0] if marks else 0)

    # -- configuration -------------------------------------------------------------------------------------------------

    def set_udp(self, fd: int) -> None:
        with self._lock:
            if self._udp is not None:
                self._selector.unregister(self._udp)
                self._udp.close()
            self._udp = None if fd < 0 else socket.socket(fileno=os.dup(fd))
            if self._udp is not None:
                self._udp.setblocking(False)
                self._set_discovery(_PMTUDISC_OMIT)
                self._udp.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
                if self._udp.family == socket.AF_INET6:
                    self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
                self._selector.register(self._udp, selectors.EVENT_READ)

    def add_vni(self, vni: int, tun_fd: int) -> None:
        with self._lock:
            if vni in self._vnis:
                raise refused(errno.EEXIST)
            added = Vni(vni, os.dup(tun_fd))
            self._vnis[vni] = added
            self._selector.register(added.tun, selectors.EVENT_READ, vni)

    def remove_vni(self, vni: int) -> None:
        with self._lock:
            removed = self._vni(vni)
            for session in [session for session in self._sessions.values() if session.vni == vni]:
                self._flows.forget(vni, session.index, time.monotonic())
                self._events.forget((session.index, 0))
                del self._sessions[session.index]
            self._events.forget((0, vni))
            self._flows.forget(vni, 0, time.monotonic())
            del self._vnis[vni]
            if vni in self._resting:
                self._resting.discard(vni)
            else:
                self._selector.unregister(removed.tun)
            os.close(removed.tun)

    def _vni(self, vni: int) -> Vni:
        if vni not in self._vnis:
            raise refused(errno.ENOENT)
        return self._vnis[vni]

    def _session(self, index: int) -> Session:
        if index not in self._sessions:
            raise refused(errno.ENOENT)
        return self._sessions[index]

    def add_route(self, vni: int, prefix: Network, next_hop: int) -> None:
        with self._lock:
            self._vni(vni).fib.add(prefix, next_hop)

    def remove_route(self, vni: int, prefix: Network) -> None:
        with self._lock:
            if not self._vni(vni).fib.remove(prefix):
                raise refused(errno.ENOENT)

    def add_mapping(self, vni: int, mapping: Mapping) -> None:
        with self._lock:
            here = self._vni(vni)
            if mapping.to == vni or not 0 < mapping.to < CROSSING:
                raise refused(errno.EINVAL)
            if any(known.seen == mapping.seen for known in here.mappings):
                raise refused(errno.EEXIST)
            here.mappings.append(mapping)
            here.fib.add(mapping.seen, CROSSING | mapping.to)

    def remove_mapping(self, vni: int, mapping: Mapping) -> None:
        with self._lock:
            here = self._vni(vni)
            if not any(known.seen == mapping.seen for known in here.mappings) or not here.fib.remove(mapping.seen):
                raise refused(errno.ENOENT)
            here.mappings = [known for known in here.mappings if known.seen != mapping.seen]

    def set_router(self, vni: int, address: IPv4Address | IPv6Address) -> None:
        with self._lock:
            self._vni(vni).routers[address.version] = address.packed

    def add_session(self, vni: int) -> int:
        with self._lock:
            self._vni(vni)
            self._last_index += 1
            self._sessions[self._last_index] = Session(self._last_index, vni)
            return self._last_index

    def set_remote(self, session: int, remote_index: int) -> None:
        with self._lock:
            self._session(session).remote = remote_index

    def cut_session(self, session: int) -> None:
        with self._lock:
            vni = self._session(session).vni
            self._flows.forget(vni, session, time.monotonic())
            self._vni(vni).fib.forget(session)
            self._events.forget((session, 0))
            self._answered.pop((session, 0), None)
            del self._sessions[session]

    def cut_sessions(self, sessions: Collection[int]) -> None:
        with self._lock:
            for session in sessions:
                if session in self._sessions:
                    self.cut_session(session)

    def set_deadline(self, session: int, not_after: int) -> None:
        with self._lock:
            self._session(session).not_after = not_after

    def add_lease(self, session: int, prefix: Network, not_after: int = NEVER) -> None:
        with self._lock:
            self._session(session).leases[prefix] = not_after

    def install_keys(self, keys: Collection[SessionKey]) -> None:
        with self._lock:
            live = [(self._sessions[key.session], key) for key in keys if key.session in self._sessions]
            if any(session.has_had(key) for session, key in live):
                raise refused(errno.EEXIST)
            for session, key in live:
                session.install(key)

    def retire_receive(self, epoch: int, sessions: Collection[int]) -> None:
        with self._lock:
            for session in sessions:
                if session in self._sessions:
                    self._sessions[session].retire_receive(epoch)

    def use_relay(self, session: int, relay: int, follow: bool) -> None:
        with self._lock:
            found = self._session(session)
            found.path, found.relay, found.follow, found.limit = PathKind.RELAY, relay, follow, 0

    def use_direct(self, session: int, address: Address, follow: bool, relay: int = 0) -> None:
        with self._lock:
            found = self._session(session)
            found.path, found.address, found.relay, found.follow = PathKind.DIRECT, address, relay, follow
            found.limit = 0

    def set_limit(self, session: int, limit: int) -> None:
        if limit != 0 and limit < LIMIT_MIN:
            raise refused(errno.EINVAL)
        with self._lock:
            self._session(session).limit = limit

    def session_stats(self, session: int) -> tuple[int, int]:
        with self._lock:
            found = self._session(session)
            return found.sent, found.received

    def session_offences(self, session: int) -> Offences:
        with self._lock:
            found = self._session(session)
            return Offences(found.forged, found.replayed, found.spoofed)

    # -- relay, events, flows, counters --------------------------------------------------------------------------------

    def add_relay(self, relay: int) -> None:
        with self._lock:
            if relay in self._relays:
                raise refused(errno.EEXIST)
            self._relays[relay] = RelayQueue()

    def remove_relay(self, relay: int) -> None:
        with self._lock:
            if self._relays.pop(relay, None) is None:
                raise refused(errno.ENOENT)

    def take_relay(self, relay: int) -> bytes:
        with self._lock:
            if relay not in self._relays:
                raise refused(errno.ENOENT)
            return self._relays[relay].take(FRAME_MAX)

    def take_relay_into(self, relay: int, into: memoryview) -> int:
        with self._lock:
            if relay not in self._relays:
                raise refused(errno.ENOENT)
            taken = self._relays[relay].take(len(into))
            into[: len(taken)] = taken
            return len(taken)

    def put_relay(self, relay: int, datagrams: bytes | memoryview) -> None:
        if len(datagrams) > FRAME_MAX:
            raise refused(errno.EMSGSIZE)
        with self._lock:
            try:
                for datagram in records_untrusted(bytes(datagrams)):
                    self._receive(datagram, None, relay)
            except BadMessage:
                raise refused(errno.EBADMSG) from None

    def settle(self) -> None:
        with self._lock:
            pass  # nothing is ever handed over

    def events(self) -> list[Event]:
        with self._lock:
            taken: list[Event] = []
            while len(taken) < _EVENTS_TAKEN and (event := self._events.take()) is not None:
                if not isinstance(event, FlowOpened) or self._flows.asked(event.flow.id):
                    taken.append(event)
            return taken

    def corked(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def flush(self) -> None:
        with self._lock:
            pass  # nothing ever waits

    def verdict(self, flow: int, verdict: Verdict, rule: int, generation: int, not_after: int = NEVER) -> bool:
        with self._lock:
            live = self._flows.decide(flow, verdict, rule, generation, not_after)
            lot = self._take_lot(flow)
            if lot is not None and live:
                self._release(lot, verdict, not_after)
            return live

    def flows(self) -> list[Flow]:
        with self._lock:
            return self._flows.list(time.monotonic())

    def flow_pages(self) -> Iterator[list[Flow]]:
        yield self.flows()

    def find_flows(self, flows: Collection[int]) -> list[Flow]:
        wanted = set(flows)
        return [flow for flow in self.flows() if flow.id in wanted]

    def alive(self, flows: Collection[int]) -> set[int]:
        with self._lock:
            return set(flows) & self._flows.ids

    def ended(self) -> tuple[list[Flow], int]:
        with self._lock:
            return self._flows.take_ended()

    def ended_pages(self) -> Iterator[tuple[list[Flow], int]]:
        yield self.ended()

    def counters(self) -> dict[str, int]:
        with self._lock:
            return {name: self._counters[name] for name in COUNTERS}

    def send_control(
        self, session: int, kind: int, payload: bytes, to: Address | None = None, via_relay: bool = False, size: int = 0
    ) -> None:
        if (
            len(payload) > CONTROL_PAYLOAD_MAX
            or size > UDP_PAYLOAD_MAX
            or not DatagramType.PROBE <= kind <= DatagramType.CLAIM
        ):
            raise refused(errno.EINVAL)
        with self._lock:
            found = self._session(session)
            path = PathKind.RELAY if via_relay else PathKind.DIRECT if to is not None else found.path
            drop = found.why_not_seal()
            if drop.startswith("drop_expired"):
                self._counters[drop] += 1
                raise refused(errno.EKEYEXPIRED)
            if not drop and not self._has_path(path):
                raise refused(errno.EHOSTUNREACH)
            datagram = found.seal(DatagramType(kind), payload.ljust(size - SEALED_OVERHEAD, b"\0"))
            with self._whole() if size and path is PathKind.DIRECT else contextlib.nullcontext():
                self._send(datagram, path, to or found.address, found.relay)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What is sent now must not be fragmented on its way."""
        self._set_discovery(_PMTUDISC_PROBE)
        yield
        self._set_discovery(_PMTUDISC_OMIT)

    def _set_discovery(self, how: int) -> None:
        """OMIT: no ICMP error changes how datagrams leave, because it could be anyone's."""
        assert self._udp is not None
        self._udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
        if self._udp.family == socket.AF_INET6:
            self._udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, how)
