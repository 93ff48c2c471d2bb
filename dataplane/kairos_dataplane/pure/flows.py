"""Flow table and FIB of one engine, as dictionaries. csrc/flow.c, fragment.c and fib.c say the same in C."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import ip_address

from kairos.errors import BadMessage
from kairos_dataplane.engine import NEVER, End, Flow, Network, Verdict, boottime_ms
from kairos_dataplane.pure.packet import ACK, FIN, RST, SYN, TCP, UDP, Packet, parse_untrusted

PENDING_LIFE_S = 5.0
FLOWS_A_SESSION = 1 << 16
WAITING_A_SESSION = 512  # of the places in events and parking, which all share
_FRAGMENT_LIFE_S = 30.0
_FRAGMENT_SLOTS = 1024
_ENDED_RING = 32768

_Fragment = tuple[int, bytes, bytes, int, int]
Key = tuple[int, int, tuple[tuple[bytes, int], tuple[bytes, int]]]


class Answer(Enum):
    PASS = auto()
    DROP = auto()
    REJECT = auto()
    ASK = auto()
    WAIT = auto()


@dataclass(slots=True)
class _Entry:
    id: int
    vni: int
    session: int
    from_vni: int
    first: Packet
    opened: float
    seen: float
    verdict: Verdict = Verdict.PENDING
    rule: int = 0
    generation: int = 0
    not_after: int = NEVER
    established: bool = False
    closing: bool = False
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def has_leave(self) -> bool:
        return self.verdict is Verdict.ALLOW and boottime_ms() < self.not_after

    def account(self, packet: Packet, volume: tuple[int, int], now: float) -> None:
        first = self.first
        later = packet.fragment and not packet.first_fragment  # it has no ports
        source, opener = (packet.src, packet.src_port), (first.src, first.src_port)
        way = 0 if source == opener or (later and packet.src == first.src) else 1
        self.packets[way] += volume[0]
        self.bytes[way] += volume[1]
        self.seen = now
        self.established |= way == 1
        self.closing |= packet.protocol == TCP and bool(packet.tcp_flags & (RST | FIN))

    def superseded_by(self, packet: Packet) -> bool:
        """A SYN is a new attempt unless it repeats the one that opened the flow, and a refusal is for the end that was
        refused (csrc/flow.c says why)."""
        by_initiator = (packet.src, packet.src_port) == (self.first.src, self.first.src_port)
        if _is_opening(packet):
            return not by_initiator or not _is_opening(self.first)
        return not by_initiator and self.verdict is Verdict.DENY and not self.established

    def idle_limit_s(self) -> float:
        if self.verdict is Verdict.PENDING:
            return PENDING_LIFE_S
        if self.verdict is Verdict.DENY:
            return 10.0
        if self.first.protocol == TCP:
            return 10.0 if self.closing else 3600.0 if self.established else 60.0
        return 180.0 if self.first.protocol == UDP and self.established else 60.0

    def describe(self, now: float, ended: End = End.NONE) -> Flow:
        first = self.first
        return Flow(
            self.id,
            self.vni,
            self.session,
            first.protocol,
            ip_address(first.src),
            ip_address(first.dst),
            first.src_port,
            first.dst_port,
            first.icmp_type,
            first.tcp_flags,
            self.verdict,
            self.rule,
            self.generation,
            (self.packets[0], self.packets[1]),
            (self.bytes[0], self.bytes[1]),
            now - self.opened,
            now - self.seen,
            self.from_vni,
            ended,
        )


def _is_opening(packet: Packet) -> bool:
    return packet.protocol == TCP and packet.tcp_flags & (SYN | ACK) == SYN


def _key(vni: int, packet: Packet) -> Key:
    """The same for both directions."""
    ends = sorted(((packet.src, packet.src_port), (packet.dst, packet.dst_port)))
    return vni, packet.protocol, (ends[0], ends[1])


def _fragment(vni: int, packet: Packet) -> _Fragment:
    """The same for all fragments of one packet."""
    return vni, packet.src, packet.dst, packet.protocol, packet.fragment_id


def _fragment_slot(vni: int, packet: Packet) -> int:
    """A table of fixed size, where the newest packet takes the place: in the same order as in C."""
    ends = int.from_bytes(packet.src[-4:]) * 0xC2B2AE35 ^ int.from_bytes(packet.dst[-4:])
    mixed = (packet.fragment_id ^ vni * 0x9E3779B1 ^ ends) * 0x85EBCA6B & 0xFFFFFFFF
    return (mixed ^ mixed >> 15) % _FRAGMENT_SLOTS


class FlowTable:
    def __init__(self, maximum: int, counters: Counter[str]) -> None:
        self._maximum = maximum
        self._counters = counters
        self._entries: dict[Key, _Entry] = {}
        self._by_id: dict[int, tuple[Key, _Entry]] = {}
        self._share: Counter[int] = Counter()
        self._waiting: Counter[int] = Counter()  # of these, without a verdict
        self._ids = itertools.count(1)
        self._fragments: dict[int, tuple[_Fragment, float, int]] = {}
        self._ended: list[Flow] = []
        self._untold = 0

    def check(
        self, vni: int, session: int, packet: Packet, volume: tuple[int, int], now: float, from_vni: int = 0
    ) -> tuple[Answer, Flow | None]:
        """Counts the packet and says what to do. ASK and WAIT come with the flow that waits for its verdict."""
        if packet.quoted is not None:
            return self._check_error(vni, packet.quoted), None
        if packet.fragment and not packet.first_fragment:
            return self._check_fragment(vni, packet, volume, now)
        key = _key(vni, packet)
        entry = self._entries.get(key)
        if entry is None:
            return self._open(key, vni, session, packet, volume, now, from_vni)
        if entry.superseded_by(packet):
            self._remove(lambda each: each is entry, End.REPLACED, now)
            return self._open(key, vni, session, packet, volume, now, from_vni)
        if packet.fragment:
            self._remember_fragment(vni, packet, entry.id, now)
        if entry.closing and _is_opening(packet) and entry.verdict is Verdict.ALLOW and now - entry.seen > 1.0:
            entry.closing = False  # the port pair is used again: same ends, same rule
        entry.account(packet, volume, now)
        if entry.verdict is Verdict.PENDING:
            return Answer.WAIT, entry.describe(now)
        if entry.verdict is Verdict.DENY:
            self._counters["drop_denied"] += 1
            return Answer.REJECT, None
        return (Answer.PASS if entry.has_leave else self._drop("drop_expired_verdict")), None

    def _check_fragment(
        self, vni: int, packet: Packet, volume: tuple[int, int], now: float
    ) -> tuple[Answer, Flow | None]:
        """A later fragment fares as its flow does now: it may wait with the first, and falls with it."""
        first, until, flow = self._fragments.get(_fragment_slot(vni, packet), (None, 0.0, 0))
        found = self._by_id.get(flow)
        if first != _fragment(vni, packet) or until <= now or found is None:
            return self._drop("drop_unknown_fragment"), None
        entry = found[1]
        entry.account(packet, volume, now)
        if entry.verdict is Verdict.PENDING:
            return Answer.WAIT, entry.describe(now)
        if entry.verdict is Verdict.DENY:
            return self._drop("drop_denied"), None
        return (Answer.PASS if entry.has_leave else self._drop("drop_expired_verdict")), None

    def _open(
        self, key: Key, vni: int, session: int, packet: Packet, volume: tuple[int, int], now: float, from_vni: int
    ) -> tuple[Answer, Flow | None]:
        if session and self._share[session] >= FLOWS_A_SESSION:
            return self._drop("drop_flow_quota"), None
        if session and self._waiting[session] >= WAITING_A_SESSION:
            return self._drop("drop_undecided"), None
        if len(self._entries) >= self._maximum or (not session and self._share[0] >= self._maximum // 2):
            return self._drop("drop_flow_table_full"), None
        entry = _Entry(next(self._ids), vni, session, from_vni, packet, now, now)
        entry.account(packet, volume, now)
        self._entries[key] = entry
        self._by_id[entry.id] = key, entry
        self._share[session] += 1
        self._waiting[session] += 1
        self._counters["flows_opened"] += 1
        if packet.fragment:
            self._remember_fragment(vni, packet, entry.id, now)
        return Answer.ASK, entry.describe(now)

    def _check_error(self, vni: int, quoted: bytes) -> Answer:
        """An ICMP error passes when the packet it quotes belongs to an allowed flow."""
        try:
            packet = parse_untrusted(quoted, quoted=True)
        except BadMessage:
            return self._drop("drop_unsolicited_icmp")
        entry = self._entries.get(_key(vni, packet))
        if (packet.fragment and not packet.first_fragment) or entry is None or not entry.has_leave:
            return self._drop("drop_unsolicited_icmp")
        return Answer.PASS

    def _drop(self, counter: str) -> Answer:
        self._counters[counter] += 1
        return Answer.DROP

    def _remember_fragment(self, vni: int, packet: Packet, flow: int, now: float) -> None:
        """Its later fragments belong to that flow for a while."""
        self._fragments[_fragment_slot(vni, packet)] = _fragment(vni, packet), now + _FRAGMENT_LIFE_S, flow

    def decide(self, flow: int, verdict: Verdict, rule: int, generation: int, not_after: int) -> bool:
        found = self._by_id.get(flow)
        if found is None:
            return False
        entry = found[1]
        self._waiting[entry.session] -= entry.verdict is Verdict.PENDING
        entry.verdict, entry.rule, entry.generation, entry.not_after = Verdict(verdict), rule, generation, not_after
        self._counters["flows_denied"] += verdict == Verdict.DENY
        return True

    def forget(self, vni: int, session: int, now: float) -> None:
        """session 0: the whole VNI, and what crossed from there."""
        if session:
            self._remove(lambda entry: entry.session == session, End.CUT, now)
        else:
            self._remove(lambda entry: vni in (entry.vni, entry.from_vni), End.CUT, now)

    def age(self, now: float) -> None:
        self._counters["flows_aged"] += self._remove(
            lambda entry: now - entry.seen > entry.idle_limit_s(), End.IDLE, now
        )

    def _remove(self, gone: Callable[[_Entry], bool], why: End, now: float) -> int:
        removed = [(key, entry) for key, entry in self._entries.items() if gone(entry)]
        for key, entry in removed:
            del self._entries[key], self._by_id[entry.id]
            self._share[entry.session] -= 1
            self._waiting[entry.session] -= entry.verdict is Verdict.PENDING
            if entry.verdict is Verdict.ALLOW:
                self._tell_end(entry, why, now)
        return len(removed)

    def _tell_end(self, entry: _Entry, why: End, now: float) -> None:
        if len(self._ended) < _ENDED_RING:
            self._ended.append(entry.describe(now, End.CLOSED if why is End.IDLE and entry.closing else why))
        else:
            self._untold += 1

    def take_ended(self) -> tuple[list[Flow], int]:
        taken = self._ended, self._untold
        self._ended, self._untold = [], 0
        return taken

    @property
    def ids(self) -> Set[int]:
        return self._by_id.keys()

    def list(self, now: float) -> list[Flow]:
        return [entry.describe(now) for entry in self._entries.values()]


class Fib:
    """Longest prefix match: one dictionary a (version, length), from the longest down."""

    def __init__(self) -> None:
        self._routes: dict[tuple[int, int], dict[int, int]] = {}

    def add(self, prefix: Network, next_hop: int) -> None:
        self._routes.setdefault((prefix.version, prefix.prefixlen), {})[int(prefix.network_address)] = next_hop

    def remove(self, prefix: Network) -> bool:
        routes = self._routes.get((prefix.version, prefix.prefixlen), {})
        return routes.pop(int(prefix.network_address), None) is not None

    def forget(self, next_hop: int) -> None:
        for routes in self._routes.values():
            for network in [network for network, hop in routes.items() if hop == next_hop]:
                del routes[network]

    def find(self, address: bytes) -> int | None:
        version, width, value = (
            (4, 32, int.from_bytes(address)) if len(address) == 4 else (6, 128, int.from_bytes(address))
        )
        for length in sorted((bits for family, bits in self._routes if family == version), reverse=True):
            network = value >> (width - length) << (width - length)
            if (hop := self._routes[version, length].get(network)) is not None:
                return hop
        return None
