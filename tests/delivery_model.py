"""What may be delivered, as docs/protocol.md §6 says it (Senders, Flows, ICMP errors, Shares, Headers).

Written from that page and the RFCs it names, with a parser of its own: nothing here comes from either engine, so a mistake that
both of them make shows. `Model` is told what each party sent, what was asked and decided, and what arrived where; it raises
`Violation` for a packet that must not have arrived. It is a bound from above: what must arrive, the tests say themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kairos_dataplane import Flow, Verdict

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
ECHO = {4: (8, 0), 6: (128, 129)}
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ERROR_MAX = {4: 576, 6: 1280}
PROHIBITED = {4: (3, 13), 6: (1, 1)}
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
EXTENSIONS_MAX = 8
ANSWERS_AT_ONCE = 100


class Violation(Exception):
    """A packet that must not have arrived."""


@dataclass(frozen=True)
class Part:
    """Of a fragmented packet: its identification and the bytes of its payload that this fragment carries."""

    identity: tuple[object, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Read:
    """An IP packet as every receiver reads it. body: from the transport header on."""

    version: int
    src: bytes
    dst: bytes
    protocol: int
    part: Part | None
    body: bytes

    @property
    def later(self) -> bool:
        return self.part is not None and self.part.start > 0

    @property
    def is_icmp(self) -> bool:
        return self.protocol in (ICMP, ICMP6) and not self.later

    @property
    def is_error(self) -> bool:
        return self.is_icmp and self.body[0] in ERRORS[self.version]

    @property
    def is_syn(self) -> bool:
        return self.protocol == TCP and not self.later and self.body[13] & 0x12 == 0x02


@dataclass(frozen=True)
class Key:
    """What one verdict is for, in both directions."""

    protocol: int
    ends: frozenset[tuple[bytes, int]]
    asks: bytes = b""  # the end that asks, of an echo


@dataclass
class Entry:
    begun_by: bytes
    by_syn: bool
    verdict: Verdict


def read(packet: bytes, quoted: bool = False) -> Read | None:
    """None: it is no packet, or a receiver could read it in another way than it is judged. quoted: only its beginning is
    there."""
    if not packet:
        return None
    found = _read4(packet, quoted) if packet[0] >> 4 == 4 else _read6(packet, quoted) if packet[0] >> 4 == 6 else None
    if found is None or found.later:
        return found
    if found.is_icmp and (found.protocol == ICMP) != (found.version == 4):
        return None
    least = {TCP: 8 if quoted else 20, UDP: 8, ICMP: 8, ICMP6: 8}.get(found.protocol, 0)
    if len(found.body) < least:
        return None
    if found.protocol == TCP and not quoted and not 20 <= (found.body[12] >> 4) * 4 <= len(found.body):
        return None
    return found


def _read4(packet: bytes, quoted: bool) -> Read | None:
    if len(packet) < 20:
        return None
    header, total, flags = (packet[0] & 15) * 4, int.from_bytes(packet[2:4]), int.from_bytes(packet[6:8])
    if header < 20 or header > min(len(packet), total) or (total != len(packet) and not quoted):
        return None
    options = packet[20:header]
    while options and options[0] != 0:
        size = 1 if options[0] == 1 else options[1] if len(options) > 1 else 0
        if size == 0 or size > len(options) or (options[0] != 1 and size < 2) or options[0] & 0x7F in (3, 9):
            return None
        options = options[size:]
    start, part = (flags & 0x1FFF) * 8, None
    if start + total > 65535:
        return None
    if flags & 0x3FFF:
        part = Part((packet[12:20], packet[9], packet[4:6]), start, start + total - header)
    return Read(4, packet[12:16], packet[16:20], packet[9], part, packet[header:total])


def _read6(packet: bytes, quoted: bool) -> Read | None:
    if len(packet) < 40 or (40 + int.from_bytes(packet[4:6]) != len(packet) and not quoted):
        return None
    following, at, part, seen = packet[6], 40, None, 0
    while following in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION) and not (part is not None and part.start):
        size = 8 if following == FRAGMENT or at + 1 >= len(packet) else 8 + packet[at + 1] * 8
        if (
            at + size > len(packet)
            or following == ROUTING
            or (following == HOP_BY_HOP and seen)
            or seen == EXTENSIONS_MAX
        ):
            return None
        if following == FRAGMENT:
            start = int.from_bytes(packet[at + 2 : at + 4]) & 0xFFF8
            if part is not None or start + len(packet) - at - 8 > 65535:
                return None
            part = Part((packet[8:40], packet[at + 4 : at + 8]), start, start + len(packet) - at - 8)
        following, at, seen = packet[at], at + size, seen + 1
    return Read(6, packet[8:24], packet[24:40], following, part, packet[at:])


def key_of(packet: Read) -> Key | None:
    """None: no flow can let it pass by itself."""
    if packet.later:
        return None
    if packet.is_icmp:
        request, reply = ECHO[packet.version]
        if packet.body[0] not in (request, reply):
            return None
        identifier = int.from_bytes(packet.body[4:6])
        ends = frozenset(((packet.src, identifier), (packet.dst, identifier)))
        return Key(packet.protocol, ends, packet.src if packet.body[0] == request else packet.dst)
    ports = (0, 0)
    if packet.protocol in (TCP, UDP):
        ports = int.from_bytes(packet.body[:2]), int.from_bytes(packet.body[2:4])
    return Key(packet.protocol, frozenset(((packet.src, ports[0]), (packet.dst, ports[1]))))


class Model:
    """holder: whose address it is."""

    def __init__(self, holder: Callable[[bytes], str]) -> None:
        self._holder = holder
        self._sent: dict[str, list[bytes]] = {}
        self._firsts: list[tuple[str, Part, Key]] = []
        self._entries: dict[Key, Entry] = {}
        self._ids: dict[int, Key] = {}
        self._counted: dict[int, Flow] = {}
        self.delivered: Counter[tuple[str, str]] = Counter()
        """Packets by who sent them and who got them, answers of the data plane apart."""
        self.octets: Counter[tuple[str, str]] = Counter()
        self.answers: Counter[str] = Counter()

    def sent(self, party: str, packet: bytes) -> None:
        self._sent.setdefault(party, []).append(packet)
        seen = read(packet)
        if seen is not None and seen.part is not None and not seen.later:
            key = key_of(seen)
            if key is not None:
                self._firsts.append((party, seen.part, key))

    def asked(self, flow: Flow) -> None:
        """There is a question: without an answer nothing of this flow may arrive."""
        asks = flow.src.packed if flow.protocol in (ICMP, ICMP6) else b""
        ends = frozenset(((flow.src.packed, flow.src_port), (flow.dst.packed, flow.dst_port)))
        key = self._ids[flow.id] = Key(flow.protocol, ends, asks)
        by_syn = flow.protocol == TCP and flow.tcp_flags & 0x12 == 0x02
        self._entries[key] = Entry(flow.src.packed, by_syn, Verdict.PENDING)

    def decided(self, flow: Flow, verdict: Verdict) -> None:
        self._entries[self._ids[flow.id]].verdict = verdict

    def counted(self, flow: Flow) -> None:
        """What the data plane says of a flow, after each step."""
        self._counted[flow.id] = flow

    # -- what arrived --

    def arrived(self, party: str, packet: bytes) -> None:
        """Raises Violation."""
        seen = read(packet)
        if seen is None:
            raise Violation(f"{party} got what is no packet: {packet.hex()}")
        if self._holder(seen.dst) != party:
            raise Violation(f"{party} got a packet for {self._holder(seen.dst)}")
        original = self._take(seen, packet)
        if original is None:
            self._check_answer(party, seen)
            return
        why = self._forbids(seen)
        if why:
            raise Violation(f"{party} got {packet.hex()}: {why}")
        way = self._holder(seen.src), party
        self.delivered[way] += 1
        self.octets[way] += len(packet)

    def _take(self, seen: Read, packet: bytes) -> bytes | None:
        """What its source's holder sent and this is. One packet arrives once. None: nobody who may have this source did."""
        sent = self._sent.get(self._holder(seen.src), [])
        for each in sent:
            if each == packet or (seen.is_error and _is_cut_of(packet, each)):
                sent.remove(each)
                return each
        return None

    def _forbids(self, seen: Read) -> str:
        """Why it must not arrive; empty: it may."""
        if self._holder(seen.src) == self._holder(seen.dst):
            return "its ends are one party"
        if seen.is_error:
            return self._forbids_error(seen)
        if seen.later:
            return self._forbids_later(seen)
        key = key_of(seen)
        if key is None:
            return "no flow has such packets"
        entry = self._entries.get(key)
        if entry is None or entry.verdict is not Verdict.ALLOW:
            return "its flow has no allow"
        if seen.is_syn and not (entry.by_syn and entry.begun_by == seen.src):
            return "it begins what nobody allowed its sender to begin"
        return ""

    def _forbids_error(self, seen: Read) -> str:
        quoted = read(seen.body[8:], quoted=True)
        if seen.part is not None or quoted is None or quoted.version != seen.version:
            return "it quotes no packet, or is a fragment"
        key = key_of(quoted)
        entry = None if key is None else self._entries.get(key)
        if entry is None or entry.verdict is not Verdict.ALLOW:
            return "it quotes a packet of no allowed flow"
        if quoted.src != seen.dst:
            return "it goes elsewhere than to the source of what it quotes"
        if self._holder(quoted.dst) != self._holder(seen.src):
            return "it does not come from where the packet that it quotes went"
        return ""

    def _forbids_later(self, seen: Read) -> str:
        part = seen.part
        assert part is not None
        for party, first, key in self._firsts:
            entry = self._entries.get(key)
            allowed = entry is not None and entry.verdict is Verdict.ALLOW
            same = party == self._holder(seen.src) and first.identity == part.identity
            if same and allowed and part.start >= first.end:
                return ""
        return "no allowed first fragment belongs to it, or it would write over that"

    def _check_answer(self, party: str, seen: Read) -> None:
        """What nobody sent must be a refusal of what this party sent, in the name of its destination."""
        quoted = read(seen.body[8:], quoted=True) if seen.is_error else None
        for each in self._sent.get(party, []):
            refused = read(each)
            key = None if refused is None else key_of(refused)
            entry = None if key is None else self._entries.get(key)
            if refused is None or entry is None or entry.verdict is not Verdict.DENY:
                continue
            if (refused.src, refused.dst) != (seen.dst, seen.src):
                continue
            reset = seen.protocol == TCP and seen.body[13] & 0x04 and refused.protocol == TCP
            told = quoted is not None and tuple(seen.body[:2]) == PROHIBITED[seen.version]
            if reset or (told and each.startswith(seen.body[8:])):
                self._sent[party].remove(each)
                self.answers[party] += 1
                return
        raise Violation(f"{party} got what nobody who may have this source sent: {seen}")

    # -- at the end --

    def check_accounts(self) -> None:
        """All that arrived is counted in a flow that joins these two, in this direction. Raises Violation."""
        packets: Counter[tuple[str, str]] = Counter()
        octets: Counter[tuple[str, str]] = Counter()
        for flow in self._counted.values():
            ends = self._holder(flow.src.packed), self._holder(flow.dst.packed)
            for way, direction in ((ends, 0), (ends[::-1], 1)):
                packets[way] += flow.packets[direction]
                octets[way] += flow.bytes[direction]
        for way in self.delivered:
            if self.delivered[way] > packets[way] or self.octets[way] > octets[way]:
                raise Violation(f"{way}: {self.delivered[way]} packets arrived, {packets[way]} are counted")


def _is_cut_of(error: bytes, longer: bytes) -> bool:
    """The same ICMP error but for what cutting it changes: lengths, checksums, and the length of the quotation."""
    version = error[0] >> 4
    if len(error) != ERROR_MAX[version] or len(longer) <= len(error):
        return False
    seen = read(error)
    assert seen is not None
    icmp = len(error) - len(seen.body)
    changed = {2, 3, 10, 11, icmp + 2, icmp + 3, icmp + 5} if version == 4 else {4, 5, icmp + 2, icmp + 3, icmp + 4}
    return all(a == b or at in changed for at, (a, b) in enumerate(zip(error, longer, strict=False)))
