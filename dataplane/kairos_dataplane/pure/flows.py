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
from kairos_dataplane.pure.events import Sharer
from kairos_dataplane.pure.packet import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP, Packet, parse_untrusted

PENDING_LIFE_S = 5.0
ASK_AGAIN_S = 1.0
FLOWS_A_SESSION = 1 << 16  # and of any sender, at most as many as are free
WAITING_A_SESSION, WAITING_A_TUN = 512, 1024  # flows without a verdict
_FRAGMENT_LIFE_S = 30.0
_FRAGMENTS_A_SENDER = 128
_ENDED_RING = 32768

_Fragment = tuple[int, bytes, bytes, int, int]
Key = tuple[int, int, bytes, tuple[tuple[bytes, int], tuple[bytes, int]]]


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
    asked: float = 0.0
    asking: bool = False  # without a verdict: the question is on its way
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
        way = self._way(packet)
        self._count(way, volume, now)
        self.established |= way == 1
        self.closing |= packet.protocol == TCP and bool(packet.tcp_flags & (RST | FIN))

    def account_error(self, quoted: Packet, volume: tuple[int, int], now: float) -> None:
        """An ICMP error goes against the packet that it is about. It says nothing of whether the other end answers."""
        self._count(1 - self._way(quoted), volume, now)

    def _way(self, packet: Packet) -> int:
        first = self.first
        source, opener = (packet.src, packet.src_port), (first.src, first.src_port)
        return 0 if source == opener or (packet.later_fragment and packet.src == first.src) else 1

    def _count(self, way: int, volume: tuple[int, int], now: float) -> None:
        self.packets[way] += volume[0]
        self.bytes[way] += volume[1]
        self.seen = now

    def superseded_by(self, packet: Packet) -> bool:
        """A SYN is a new attempt unless it repeats the one that opened the flow, and a refusal is for the end that was
        refused (csrc/flow.c says why)."""
        if packet.echo_reply:
            return False
        by_initiator = (packet.src, packet.src_port) == (self.first.src, self.first.src_port)
        if _is_opening(packet):
            return not by_initiator or not _is_opening(self.first)
        return not by_initiator and self.verdict is Verdict.DENY and not self.established

    def is_aged(self, now: float) -> bool:
        """Whatever packets come, a decision that nobody gave ends the flow."""
        if self.verdict is Verdict.PENDING:
            return now - self.opened > PENDING_LIFE_S
        return now - self.seen > self._idle_limit_s()

    def _idle_limit_s(self) -> float:
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


def sharer_of(vni: int, session: int, from_vni: int) -> Sharer:
    return (session, 0) if session else (0, from_vni or vni)


def _is_opening(packet: Packet) -> bool:
    return packet.protocol == TCP and packet.tcp_flags & (SYN | ACK) == SYN


def _key(vni: int, packet: Packet) -> Key:
    """The same for both directions. Of an echo also who asks: a request of the other end with the same identifier is a flow
    of its own."""
    ends = sorted(((packet.src, packet.src_port), (packet.dst, packet.dst_port)))
    asks = packet.src if packet.echo_request else packet.dst if packet.echo_reply else b""
    return vni, packet.protocol, asks, (ends[0], ends[1])


def _fragment(vni: int, packet: Packet) -> _Fragment:
    """The same for all fragments of one packet."""
    return vni, packet.src, packet.dst, packet.protocol if packet.version == 4 else 0, packet.fragment_id


@dataclass(frozen=True, slots=True)
class _First:
    """A first fragment: to which flow it belongs, where it ends, and until when it is remembered."""

    flow: int
    end: int
    until: float


class FlowTable:
    """ask: puts the question about a flow for a sender, False when there is no room for it. gone: told of each flow that
    ends, by id."""

    def __init__(
        self,
        maximum: int,
        counters: Counter[str],
        ask: Callable[[Sharer, Flow], bool] = lambda _, __: True,
        gone: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._ask_for, self._gone = ask, gone
        self._maximum = maximum
        self._counters = counters
        self._entries: dict[Key, _Entry] = {}
        self._by_id: dict[int, tuple[Key, _Entry]] = {}
        self._share: Counter[Sharer] = Counter()
        self._waiting: Counter[Sharer] = Counter()  # of these, without a verdict
        self._ids = itertools.count(1)
        self._fragments: dict[Sharer, dict[_Fragment, _First]] = {}  # of each sender, the oldest first
        self._ended: list[Flow] = []
        self._untold = 0

    def check(
        self, vni: int, session: int, packet: Packet, volume: tuple[int, int], now: float, from_vni: int = 0
    ) -> tuple[Answer, Flow | None]:
        """Counts the packet, which is no ICMP error, and says what to do. ASK and WAIT come with the flow that waits for its
        verdict."""
        sharer = sharer_of(vni, session, from_vni)
        if packet.later_fragment:
            return self._check_fragment(vni, sharer, packet, volume, now)
        if packet.protocol in (ICMP, ICMP6) and not packet.echo_request and not packet.echo_reply:
            return self._drop("drop_icmp_type"), None
        key = _key(vni, packet)
        entry = self._entries.get(key)
        if entry is None and packet.echo_reply:
            return self._drop("drop_unsolicited_icmp"), None
        if entry is None:
            return self._open(key, vni, session, packet, volume, now, from_vni)
        if entry.superseded_by(packet):
            self._remove(lambda each: each is entry, End.REPLACED, now)
            return self._open(key, vni, session, packet, volume, now, from_vni)
        if packet.fragment:
            self._remember_fragment(vni, sharer, packet, entry.id, now)
        if entry.closing and _is_opening(packet) and entry.verdict is Verdict.ALLOW and now - entry.seen > 1.0:
            entry.closing = False  # the port pair is used again: same ends, same rule
        entry.account(packet, volume, now)
        if entry.verdict is Verdict.PENDING:
            if not entry.asking and now - entry.asked >= ASK_AGAIN_S:
                self._ask(sharer, entry, now)
            return Answer.WAIT, entry.describe(now)
        if entry.verdict is Verdict.DENY:
            self._counters["drop_denied"] += 1
            return Answer.REJECT, None
        return (Answer.PASS if entry.has_leave else self._drop("drop_expired_verdict")), None

    def _check_fragment(
        self, vni: int, sharer: Sharer, packet: Packet, volume: tuple[int, int], now: float
    ) -> tuple[Answer, Flow | None]:
        """A later fragment fares as its flow does now: it may wait with the first, and falls with it."""
        first = self._fragments.get(sharer, {}).get(_fragment(vni, packet))
        if first is None or first.until <= now:
            return self._drop("drop_unknown_fragment"), None
        if packet.fragment_start < first.end:
            return self._drop("drop_overlapping_fragment"), None
        found = self._by_id.get(first.flow)
        if found is None:
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
        sharer, left = sharer_of(vni, session, from_vni), self._maximum - len(self._entries)
        if self._waiting[sharer] >= (WAITING_A_SESSION if session else WAITING_A_TUN):
            return self._drop("drop_undecided"), None
        if self._share[sharer] >= left or (session and self._share[sharer] >= FLOWS_A_SESSION):
            return self._drop("drop_flow_quota" if left else "drop_flow_table_full"), None
        entry = _Entry(next(self._ids), vni, session, from_vni, packet, now, now)
        entry.account(packet, volume, now)
        self._entries[key] = entry
        self._by_id[entry.id] = key, entry
        self._share[sharer] += 1
        self._waiting[sharer] += 1
        self._counters["flows_opened"] += 1
        if packet.fragment:
            self._remember_fragment(vni, sharer, packet, entry.id, now)
        self._ask(sharer, entry, now)
        return Answer.ASK, entry.describe(now)

    def _ask(self, sharer: Sharer, entry: _Entry, now: float) -> None:
        """sharer: whose packet asks."""
        entry.asked = now
        entry.asking = self._ask_for(sharer, entry.describe(now))
        self._counters["drop_event_full"] += not entry.asking  # a later packet asks again

    def asked(self, flow: int) -> bool:
        """The question about it was taken. False: it waits no more."""
        found = self._by_id.get(flow)
        if found is None:
            return False
        found[1].asking = False
        return found[1].verdict is Verdict.PENDING

    def check_error(
        self, vni: int, error: Packet, speaks_for: Callable[[bytes], bool], volume: tuple[int, int], now: float
    ) -> Answer:
        """An ICMP error is about a packet of an allowed flow, goes to the source of that packet, and comes from where the
        packet went. speaks_for: whether the error's sender may have packets with this source address."""
        try:
            quoted = parse_untrusted(error.quoted or b"", quoted=True)
        except BadMessage:
            return self._drop("drop_unsolicited_icmp")
        entry = self._entries.get(_key(vni, quoted))
        if error.fragment or quoted.later_fragment or quoted.version != error.version:
            return self._drop("drop_unsolicited_icmp")
        if entry is None or not entry.has_leave:
            return self._drop("drop_unsolicited_icmp")
        if error.dst != quoted.src or not speaks_for(quoted.dst):
            return self._drop("drop_misdirected_icmp")
        entry.account_error(quoted, volume, now)
        return Answer.PASS

    def _drop(self, counter: str) -> Answer:
        self._counters[counter] += 1
        return Answer.DROP

    def _remember_fragment(self, vni: int, sharer: Sharer, packet: Packet, flow: int, now: float) -> None:
        """Its later fragments belong to that flow for a while. Nobody's fragments push out those of another sender."""
        of_sender, name, end = self._fragments.setdefault(sharer, {}), _fragment(vni, packet), packet.fragment_end
        known = of_sender.get(name)
        if known is None and len(of_sender) == _FRAGMENTS_A_SENDER:
            del of_sender[next(iter(of_sender))]
        if known is not None and known.flow == flow:
            end = max(end, known.end)
        of_sender[name] = _First(flow, end, now + _FRAGMENT_LIFE_S)

    def decide(self, flow: int, verdict: Verdict, rule: int, generation: int, not_after: int) -> bool:
        found = self._by_id.get(flow)
        if found is None:
            return False
        entry = found[1]
        self._waiting[self._owner(entry)] -= entry.verdict is Verdict.PENDING
        entry.verdict, entry.rule, entry.generation, entry.not_after = Verdict(verdict), rule, generation, not_after
        self._counters["flows_denied"] += verdict == Verdict.DENY
        return True

    def forget(self, vni: int, session: int, now: float) -> None:
        """session 0: the whole VNI, and what crossed from there."""
        if session:
            self._remove(lambda entry: entry.session == session, End.CUT, now)
        else:
            self._remove(lambda entry: vni in (entry.vni, entry.from_vni), End.CUT, now)
        self._fragments.pop(sharer_of(vni, session, 0), None)

    def age(self, now: float) -> None:
        self._counters["flows_aged"] += self._remove(lambda entry: entry.is_aged(now), End.IDLE, now)

    @staticmethod
    def _owner(entry: _Entry) -> Sharer:
        return sharer_of(entry.vni, entry.session, entry.from_vni)

    def _remove(self, gone: Callable[[_Entry], bool], why: End, now: float) -> int:
        removed = [(key, entry) for key, entry in self._entries.items() if gone(entry)]
        for key, entry in removed:
            del self._entries[key], self._by_id[entry.id]
            self._share[self._owner(entry)] -= 1
            self._waiting[self._owner(entry)] -= entry.verdict is Verdict.PENDING
            self._gone(entry.id)
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
