"""What happens to a packet: datagrams in, the checks, the verdict, the route, datagrams out. One lock, the engine's."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from kairos.errors import BadMessage
from kairos.wire.datagram import CONTROL_PAYLOAD_MAX, DatagramType, parse_header_untrusted
from kairos_dataplane.engine import (
    LOCAL,
    Address,
    ControlReceived,
    Event,
    Flow,
    FlowOpened,
    Mapping,
    PathKind,
    PathMoved,
    RelayReady,
    Verdict,
    boottime_ms,
)
from kairos_dataplane.pure.events import EventQueues, Sharer
from kairos_dataplane.pure.flows import Answer, Fib, FlowTable, sharer_of
from kairos_dataplane.pure.packet import (
    TCP,
    Packet,
    ecn,
    expired,
    parse_untrusted,
    refusal,
    shortened_error,
    too_big,
    with_congestion,
    with_hop_spent,
)
from kairos_dataplane.pure.segments import Offload, cut, volume, whole_untrusted
from kairos_dataplane.pure.session import RelayQueue, Session
from kairos_dataplane.pure.translate import translate

IPV6_MTU_MIN = 1280
CROSSING = 1 << 30  # next hop: what is seen of another VNI, with that VNI's number
_TOS = (socket.IPPROTO_IP, socket.IP_TOS)
_TCLASS = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
_ANSWER_EVERY_S, _ANSWERS_AT_ONCE = 0.01, 100  # RST and ICMP that we make, to one sender
_PARKED_FLOWS, _PARKED_A_FLOW, _PARKED_BYTES = 2048, 8, 2048


@dataclass(slots=True)
class Vni:
    id: int
    tun: int
    fib: Fib = field(default_factory=Fib)
    mappings: list[Mapping] = field(default_factory=list)
    routers: dict[int, bytes] = field(default_factory=lambda: {4: bytes(4), 6: bytes(16)})
    failures: int = 0
    """Of reading the TUN, without success since."""
    retry: float = 0.0
    """The TUN is not waited for until then; 0: it is."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Where an inner packet comes from. session None: a TUN. across: the VNI it crossed from; None: it is in its own."""

    session: Session | None
    across: Vni | None = None


@dataclass(slots=True)
class _Lot:
    """The packets of a flow that waits for its verdict."""

    vni: int
    session: int
    across: int
    packets: list[tuple[Offload, bytes]] = field(default_factory=list)


class PacketPath:
    """Every method is called with `_lock` held."""

    def __init__(self, max_flows: int) -> None:
        self._guard = threading.RLock()  # guards all below
        self._closed = False
        self._counters: Counter[str] = Counter()
        self._vnis: dict[int, Vni] = {}
        self._sessions: dict[int, Session] = {}
        self._relays: dict[int, RelayQueue] = {}
        self._events = EventQueues()
        self._flows = FlowTable(
            max_flows, self._counters, lambda sharer, flow: self._events.put(sharer, FlowOpened(flow)), self._unpark
        )
        self._parked: dict[int, _Lot] = {}
        self._parked_of: Counter[Sharer] = Counter()
        self._answered: dict[
            Sharer, float
        ] = {}  # when the answers that each got would have been sent at their steady rate
        self._udp: socket.socket | None = None

    @property
    def _lock(self) -> threading.RLock:
        """Raises OSError (EBADF) once the engine is closed."""
        if self._closed:
            raise OSError(errno.EBADF, "the data plane is closed")
        return self._guard

    def _emit(self, sharer: Sharer, event: Event) -> bool:
        if self._events.put(sharer, event):
            return True
        self._counters["drop_event_full"] += 1
        return False

    # -- datagrams in --------------------------------------------------------------------------------------------------

    def _receive(self, datagram: bytes, source: Address | None, relay: int, outer_ecn: int = 0) -> None:
        if len(datagram) < 32:
            self._counters["drop_short"] += 1
            return
        try:
            header = parse_header_untrusted(datagram)
        except BadMessage:
            self._counters["drop_bad_header"] += 1
            return
        session = self._sessions.get(header.receiver)
        if session is None:
            self._counters["drop_unknown_session"] += 1
            return
        plain = session.open(header, datagram)
        if isinstance(plain, str):
            self._counters[plain] += 1
            return
        self._counters["rx_datagrams" if source else "rx_relay_datagrams"] += 1
        if header.type is not DatagramType.PROBE and session.is_newest(header) and session.follow:
            self._follow(session, source, relay)
        if header.type is DatagramType.DATA:
            self._receive_data(session, plain, outer_ecn)
        elif len(plain) > CONTROL_PAYLOAD_MAX and header.type not in (DatagramType.PROBE, DatagramType.PROBE_ACK):
            self._counters["drop_too_large"] += 1
        else:
            told = plain[:CONTROL_PAYLOAD_MAX]
            event = ControlReceived(session.index, int(header.type), told, source, relay, len(datagram))
            self._emit((session.index, 0), event)

    def _follow(self, session: Session, source: Address | None, relay: int) -> None:
        kind = PathKind.RELAY if source is None else PathKind.DIRECT
        if session.path is kind and (source is None or session.address == source):
            return
        session.path, session.limit = kind, 0
        if source is None:
            session.relay = relay
        else:
            session.address = source
        self._emit((session.index, 0), PathMoved(session.index, kind, source, relay))

    def _receive_data(self, session: Session, plain: bytes, outer_ecn: int) -> None:
        try:
            offload, data = whole_untrusted(plain)
        except BadMessage:
            self._counters["drop_bad_segment"] += 1
            return
        told = with_congestion(data, outer_ecn)
        if told is None:
            self._counters["drop_congested"] += 1
            return
        self._forward(self._vnis[session.vni], session, offload, told)

    # -- inner packets -------------------------------------------------------------------------------------------------------

    def _forward(self, vni: Vni, session: Session | None, offload: Offload, data: bytes) -> None:
        """One inner packet, from the TUN (session None) or a session: source check, flow verdict, FIB, out."""
        try:
            packet = parse_untrusted(data)
        except BadMessage:
            self._counters["drop_bad_packet"] += 1
            return
        if packet.multicast:
            self._counters["drop_multicast"] += 1
            return
        if drop := _why_not_from(vni, session, packet.src):
            if session is not None:
                session.spoofed += drop == "drop_spoofed_source"
            self._counters[drop] += 1
            return
        if packet.quoted is not None:
            try:
                data = shortened_error(data, packet)
            except BadMessage:
                self._counters["drop_bad_packet"] += 1
                return
            packet = parse_untrusted(data)
        self._forward_flow(vni, Sender(session), offload, data, packet)

    def _forward_flow(self, vni: Vni, sender: Sender, offload: Offload, data: bytes, packet: Packet) -> None:
        """In this VNI: has its flow leave there?"""
        index = 0 if sender.session is None else sender.session.index
        across = 0 if sender.across is None else sender.across.id
        counted, now, opened = volume(offload, data, packet), time.monotonic(), None
        if packet.quoted is not None:
            answer = self._flows.check_error(
                vni.id, packet, lambda address: _speaks_for(vni, sender, address), counted, now
            )
        else:
            answer, opened = self._flows.check(vni.id, index, packet, counted, now, across)
        if answer is Answer.PASS:
            self._forward_allowed(vni, sender, offload, data, packet)
        elif answer is Answer.REJECT:
            self._reject(vni, sender, data, packet)
        elif opened is not None:
            parked = self._park(opened, offload, data)
            self._counters["parked" if parked else "drop_park_full" if answer is Answer.ASK else "drop_pending"] += 1

    def _park(self, flow: Flow, offload: Offload, data: bytes) -> bool:
        """The packet waits while the verdict of its flow is found. False: there is no room for it. A sender has places for
        at most as many flows as are free."""
        owner = sharer_of(flow.vni, flow.session, flow.from_vni)
        if len(data) > _PARKED_BYTES:
            return False
        if flow.id not in self._parked:
            if self._parked_of[owner] >= _PARKED_FLOWS - len(self._parked):
                return False
            self._parked[flow.id] = _Lot(flow.vni, flow.session, flow.from_vni)
            self._parked_of[owner] += 1
        lot = self._parked[flow.id]
        if len(lot.packets) == _PARKED_A_FLOW:
            return False
        lot.packets.append((offload, data))
        return True

    def _take_lot(self, flow: int) -> _Lot | None:
        lot = self._parked.pop(flow, None)
        if lot is not None:
            self._parked_of[sharer_of(lot.vni, lot.session, lot.across)] -= 1
        return lot

    def _unpark(self, flow: int) -> None:
        """It ended before its verdict."""
        lot = self._take_lot(flow)
        if lot is not None:
            self._counters["drop_pending"] += len(lot.packets)

    def _cross(self, vni: Vni, sender: Sender, other: int, offload: Offload, data: bytes, packet: Packet) -> None:
        """Over an interconnect, once: there it is a flow of the other VNI, with a verdict of its own."""
        if sender.across is not None:
            self._counters["drop_second_crossing"] += 1
            return
        hopped = with_hop_spent(data)
        if hopped is None:
            self._counters["drop_hop_limit"] += 1
            error = expired(data, packet, vni.routers[packet.version])
            if error is not None and self._may_answer(vni, sender):
                self._answer(vni, sender, error)
            return
        to = self._vnis.get(other)
        partial = bool(offload.flags & 1) and offload.csum_start == packet.l4
        translated = None if to is None else translate(vni, to, hopped, packet, partial)
        if to is None or translated is None:
            self._counters["drop_no_mapping"] += 1
            return
        self._forward_flow(to, Sender(sender.session, vni), offload, translated, parse_untrusted(translated))

    def _forward_allowed(self, vni: Vni, sender: Sender, offload: Offload, data: bytes, packet: Packet) -> None:
        next_hop = vni.fib.find(packet.dst)
        if next_hop is not None and next_hop & CROSSING:
            self._cross(vni, sender, next_hop & ~CROSSING, offload, data, packet)
            return
        if next_hop is not None and sender.across is not None:
            self._counters["crossed"] += 1
        if next_hop == LOCAL and (sender.session is not None or sender.across is not None):
            self._to_tun(vni, offload, data, packet)
            return
        to = self._sessions.get(next_hop or 0)
        if to is None or to is sender.session or to.vni != vni.id:
            self._counters["drop_no_route"] += 1
            return
        if _must_shrink(to, offload, data, packet):
            self._counters["drop_too_large"] += 1
            mtu = max(to.most, IPV6_MTU_MIN) if packet.version == 6 else to.most
            self._answer_refusal(vni, sender, too_big(data, packet, mtu))
            return
        if sender.session is not None and sender.across is None:
            self._counters["turned_around"] += 1
        self._transmit(to, offload, data, packet)

    def _to_tun(self, vni: Vni, offload: Offload, data: bytes, packet: Packet) -> None:
        try:
            os.write(vni.tun, offload.pack() + data)
        except OSError:
            self._counters["drop_tun_write"] += 1
            return
        packets, size = volume(offload, data, packet)
        self._counters["rx_packets"] += packets
        self._counters["rx_bytes"] += size

    def _reject(self, vni: Vni, sender: Sender, data: bytes, packet: Packet) -> None:
        self._answer_refusal(vni, sender, refusal(data, packet))

    def _answer_refusal(self, vni: Vni, sender: Sender, answer: bytes | None) -> None:
        if answer is None or not self._may_answer(vni, sender):
            return
        if sender.across is not None:
            answer = translate(vni, sender.across, answer, parse_untrusted(answer), partial=False)
        if answer is None:
            return
        self._counters["rejects_sent"] += 1
        self._answer(sender.across or vni, sender, answer)

    def _may_answer(self, vni: Vni, sender: Sender) -> bool:
        """RFC 4443 §2.4(f): a token bucket for each sender."""
        sharer, now = _sharer(vni, sender), time.monotonic()
        after = max(self._answered.get(sharer, 0.0), now) + _ANSWER_EVERY_S
        if after > now + _ANSWERS_AT_ONCE * _ANSWER_EVERY_S:
            self._counters["answers_limited"] += 1
            return False
        self._answered[sharer] = after
        return True

    def _answer(self, vni: Vni, sender: Sender, answer: bytes) -> None:
        packet = parse_untrusted(answer)
        if sender.session is None:
            self._to_tun(vni, Offload(), answer, packet)
        else:
            self._transmit(sender.session, Offload(), answer, packet)

    def _transmit(self, to: Session, offload: Offload, data: bytes, packet: Packet) -> None:
        pieces = cut(offload, data, packet, to.most)
        if pieces is None:
            self._counters["drop_too_large"] += 1
        elif drop := to.why_not_seal():
            self._counters[drop] += 1
        elif not self._has_path(to.path):
            self._counters["drop_no_path"] += 1
        else:
            for piece in pieces:
                self._send(to.seal(DatagramType.DATA, piece), to.path, to.address, to.relay, ecn(data))
            packets, size = volume(offload, data, packet)
            self._counters["tx_packets"] += packets
            self._counters["tx_bytes"] += size
            self._counters["tx_datagrams"] += len(pieces)

    def _has_path(self, path: PathKind) -> bool:
        return path is PathKind.RELAY or (path is PathKind.DIRECT and self._udp is not None)

    def _send(self, datagram: bytes, path: PathKind, address: Address | None, relay: int, mark: int = 0) -> None:
        """mark: the ECN bits of the inner packet, for the outer header."""
        if path is PathKind.RELAY:
            self._queue(datagram, relay)
            return
        try:
            assert self._udp is not None
            assert address is not None
            host = address[0]
            level, option = _TCLASS if ":" in host else _TOS
            if self._udp.family == socket.AF_INET6 and ":" not in host:
                host = f"::ffff:{host}"
            control = [(level, option, mark.to_bytes(4, sys.byteorder))] if mark else []
            self._udp.sendmsg([datagram], control, 0, (host, address[1]))
        except OSError:
            self._counters["drop_udp_send"] += 1

    def _queue(self, datagram: bytes, relay: int) -> None:
        queue = self._relays.get(relay)
        if queue is None:
            self._counters["drop_no_relay"] += 1
            return
        self._counters["drop_relay_full"] += queue.put(datagram)
        if not queue.told:
            queue.told = self._emit((0, 0), RelayReady(relay))

    def _release(self, lot: _Lot, verdict: Verdict, not_after: int) -> None:
        vni, sender = self._vnis.get(lot.vni), Sender(self._sessions.get(lot.session), self._vnis.get(lot.across))
        if vni is None or (lot.session and sender.session is None) or (lot.across and sender.across is None):
            self._counters["drop_denied"] += len(lot.packets)  # their sender was cut meanwhile
            return
        for offload, data in lot.packets:
            packet = parse_untrusted(data)
            if verdict != Verdict.ALLOW:
                self._counters["drop_denied"] += 1
                self._reject(vni, sender, data, packet)
                continue
            drop = "drop_expired_verdict" if boottime_ms() >= not_after else _why_not_now(sender, packet)
            if drop:
                self._counters[drop] += 1
            else:
                self._forward_allowed(vni, sender, offload, data, packet)


def _why_not_now(sender: Sender, packet: Packet) -> str:
    """What let a packet in may have ended while it waited: the counter of its drop, empty when nothing has. An address that crossed
    is not the one of its sender's lease."""
    if sender.session is None:
        return ""
    if boottime_ms() >= sender.session.not_after:
        return "drop_expired_session"
    return "" if sender.across is not None else sender.session.why_not_from(packet.src)


def _sharer(vni: Vni, sender: Sender) -> Sharer:
    session, across = sender.session, sender.across
    return sharer_of(vni.id, 0 if session is None else session.index, 0 if across is None else across.id)


def _speaks_for(vni: Vni, sender: Sender, address: bytes) -> bool:
    """A session speaks for its leases; another VNI for the names that its addresses have here; the TUN for what this VNI
    does not lead to either of them."""
    if sender.across is not None:
        return vni.fib.find(address) == CROSSING | sender.across.id
    if sender.session is not None:
        return not sender.session.why_not_from(address)
    return vni.fib.find(address) in (None, LOCAL)


def _why_not_from(vni: Vni, session: Session | None, address: bytes) -> str:
    """The counter of the drop of a packet with this source that came in here; empty when its sender has the address."""
    if session is not None:
        return session.why_not_from(address)
    return "" if _speaks_for(vni, Sender(None), address) else "drop_spoofed_source"


def _must_shrink(to: Session, offload: Offload, data: bytes, packet: Packet) -> bool:
    """What its path cannot carry whole, cannot be cut, and has a sender who must be told (RFC 1191, RFC 8201). All else
    that is too large goes as it is, and IP fragments the datagram around it."""
    size = packet.l4 + packet.l4_header + offload.gso_size if offload.gso_type else len(data)
    if size <= to.most or packet.protocol == TCP:
        return False
    return bool(data[6] & 0x40) if packet.version == 4 else size > IPV6_MTU_MIN
