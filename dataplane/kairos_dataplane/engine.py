"""The typed face of a data plane, kept by the C engine and by its twin alike."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple, Protocol

Address = tuple[str, int]  # host, UDP port
Network = IPv4Network | IPv6Network
LOCAL = 0  # next hop: this VNI's TUN
FRAME_MAX = 262_144  # what one relay frame carries
LIMIT_MIN = 576  # bytes of a datagram that any path carries
# What `counters` counts, the names of csrc/internal.h. docs/operations.md says what each drop means.
COUNTERS = (
    "tx_packets",
    "tx_bytes",
    "tx_datagrams",
    "rx_packets",
    "rx_bytes",
    "rx_datagrams",
    "rx_relay_datagrams",
    "turned_around",
    "crossed",
    "flows_opened",
    "flows_denied",
    "flows_aged",
    "rejects_sent",
    "answers_limited",
    "tun_read_errors",
    "parked",
    "drop_short",
    "drop_bad_header",
    "drop_unknown_session",
    "drop_unknown_epoch",
    "drop_auth",
    "drop_replay",
    "drop_bad_segment",
    "drop_bad_packet",
    "drop_spoofed_source",
    "drop_no_route",
    "drop_no_key",
    "drop_no_path",
    "drop_denied",
    "drop_icmp_type",
    "drop_unsolicited_icmp",
    "drop_misdirected_icmp",
    "drop_unknown_fragment",
    "drop_overlapping_fragment",
    "drop_flow_table_full",
    "drop_flow_quota",
    "drop_undecided",
    "drop_pending",
    "drop_park_full",
    "drop_event_full",
    "drop_tun_write",
    "drop_udp_send",
    "drop_relay_full",
    "drop_inbox_full",
    "drop_no_relay",
    "drop_too_large",
    "drop_multicast",
    "drop_congested",
    "drop_expired_session",
    "drop_expired_key",
    "drop_expired_lease",
    "drop_expired_verdict",
    "drop_no_mapping",
    "drop_second_crossing",
    "drop_hop_limit",
)


NEVER = 2**64 - 1  # a `not_after` that no clock reaches


def boottime_ms(after_s: float = 0.0) -> int:
    """The clock of every `not_after`: milliseconds of CLOCK_BOOTTIME, which goes on while the host is suspended. after_s: so
    many seconds from now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + round(after_s * 1000)


class Verdict(IntEnum):
    DENY = 0
    ALLOW = 1
    PENDING = 2


class End(IntEnum):
    """Why a flow is over. IDLE: no packet for too long; CLOSED: the same after a FIN or RST; CUT: its session or VNI
    went; REPLACED: the same ends began anew."""

    NONE = 0
    IDLE = 1
    CLOSED = 2
    CUT = 3
    REPLACED = 4


class PathKind(IntEnum):
    NONE = 0
    RELAY = 1
    DIRECT = 2


class Flow(NamedTuple):
    """A flow as its initiator sees it; a tuple, because each new connection makes one. session: 0 when it entered through
    a TUN, else whose it is. protocol: the IP number; ICMP echo ids are both ports. packets, bytes: (towards the
    responder, back). from_vni: 0 when it began in `vni`; else it came across an interconnect from there, and src and dst
    are what they are called here."""

    id: int
    vni: int
    session: int
    protocol: int
    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    src_port: int
    dst_port: int
    icmp_type: int
    tcp_flags: int
    verdict: Verdict
    rule: int
    generation: int
    packets: tuple[int, int]
    bytes: tuple[int, int]
    age_s: float
    idle_s: float
    from_vni: int = 0
    ended: End = End.NONE


@dataclass(frozen=True, slots=True)
class Mapping:
    """One way of an interconnect: the addresses of `real` in VNI `to` by the names of `seen`, of the same length."""

    seen: Network
    to: int
    real: Network


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A key of one session, for one direction and epoch."""

    session: int
    """The data plane's index."""
    epoch: int
    key: bytes = field(repr=False)
    """32 bytes, for AES-256-GCM."""
    iv: bytes = field(repr=False)
    """12 bytes, of which no other key has the same."""
    transmit: bool
    """False: for datagrams of the peer. True: the session sends under it from now on."""
    not_after: int = NEVER
    """`boottime_ms` from which on it is not used any more, whether or not it was retired."""

    def __post_init__(self) -> None:
        if len(self.key) != 32 or len(self.iv) != 12:
            raise ValueError(f"key of {len(self.key)} and iv of {len(self.iv)} bytes: 32 and 12 are needed")


@dataclass(frozen=True, slots=True)
class Offences:
    """Dropped datagrams that named one session. forged, replayed: by anyone who can send us UDP, for they prove nothing
    of their sender; spoofed: sealed with the session's own key around a source that it does not hold."""

    forged: int
    replayed: int
    spoofed: int


@dataclass(frozen=True, slots=True)
class FlowOpened:
    """A flow waits for `verdict`."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """An authenticated PROBE, PROBE_ACK, KEEPALIVE or CLAIM. source: None when it came through the relay. size: bytes of
    the whole datagram; of a padded PROBE the payload is only the beginning."""

    session: int
    type: int
    payload: bytes
    source: Address | None
    relay: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class PathMoved:
    """The session's path followed its peer."""

    session: int
    kind: PathKind
    address: Address | None
    relay: int


@dataclass(frozen=True, slots=True)
class RelayReady:
    """Datagrams wait in this relay queue."""

    relay: int


@dataclass(frozen=True, slots=True)
class TunFailing:
    """A VNI's TUN cannot be read, and is tried again and again."""

    vni: int
    error: int
    """The errno of the newest failure; 0: it can be read again."""


Event = FlowOpened | ControlReceived | PathMoved | RelayReady | TunFailing


class Dataplane(Protocol):
    """One engine a process. Errors of use are OSError with the errno of the C face."""

    @property
    def name(self) -> str:
        """c or pure."""
        ...

    @property
    def description(self) -> str: ...

    @property
    def aead(self) -> str: ...

    @property
    def event_fd(self) -> int:
        """Readable while `events` would return something."""
        ...

    def close(self) -> None: ...
    def set_udp(self, fd: int) -> None: ...
    def add_vni(self, vni: int, tun_fd: int) -> None: ...
    def remove_vni(self, vni: int) -> None: ...
    def add_route(self, vni: int, prefix: Network, next_hop: int) -> None: ...
    def remove_route(self, vni: int, prefix: Network) -> None: ...
    def add_mapping(self, vni: int, mapping: Mapping) -> None:
        """Packets of `vni` for `mapping.seen` cross, if their source has a name on the other side too."""
        ...

    def remove_mapping(self, vni: int, mapping: Mapping) -> None: ...
    def set_router(self, vni: int, address: IPv4Address | IPv6Address) -> None:
        """Our own address there: a packet that crosses from there with no hop left is answered by it."""
        ...

    def add_session(self, vni: int) -> int: ...
    def set_remote(self, session: int, remote_index: int) -> None: ...
    def cut_session(self, session: int) -> None: ...
    def cut_sessions(self, sessions: Collection[int]) -> None:
        """Many at once, which stops packets less often. Those that are gone already are left out."""
        ...

    def set_deadline(self, session: int, not_after: int) -> None:
        """From `boottime_ms` `not_after` on nothing is received or sent in its name, whether or not it was cut."""
        ...

    def add_lease(self, session: int, prefix: Network, not_after: int = NEVER) -> None:
        """One that it has already gets this deadline."""
        ...

    def install_keys(self, keys: Collection[SessionKey]) -> None:
        """All of a rekey at once: packets are stopped once. Those of sessions that are gone are left out. Raises EEXIST for an
        epoch that a session had before, and installs none then: a counter never starts again under its key."""
        ...

    def retire_receive(self, epoch: int, sessions: Collection[int]) -> None:
        """Wipes their receive keys of that epoch, where they have one."""
        ...

    def use_relay(self, session: int, relay: int, follow: bool) -> None: ...
    def use_direct(self, session: int, address: Address, follow: bool, relay: int = 0) -> None: ...
    def set_limit(self, session: int, limit: int) -> None:
        """The largest datagram (UDP payload) that the session's path carries, from LIMIT_MIN on. 0, and after each change
        of path: not known. TCP is cut to fit; other packets that must not be fragmented are answered by "too big"."""
        ...

    def session_stats(self, session: int) -> tuple[int, int]: ...
    def session_offences(self, session: int) -> Offences: ...
    def send_control(
        self, session: int, kind: int, payload: bytes, to: Address | None = None, via_relay: bool = False, size: int = 0
    ) -> None:
        """to: None is the session's path. size: of the whole datagram, which is padded to it and must not be fragmented on
        its way; 0: what it takes."""
        ...

    def add_relay(self, relay: int) -> None: ...
    def remove_relay(self, relay: int) -> None: ...
    def take_relay(self, relay: int) -> bytes: ...
    def take_relay_into(self, relay: int, into: memoryview) -> int:
        """Whole records that fit, oldest first; returns their bytes. 0: nothing waits, or the first does not fit."""
        ...

    def put_relay(self, relay: int, datagrams: bytes | memoryview) -> None:
        """The payload of one DATAGRAMS frame, handed over to the thread that receives: this never waits for it. What finds
        no room there is dropped (drop_inbox_full). Raises EBADMSG for a broken record; those before it are handed over."""
        ...

    def settle(self) -> None:
        """Returns when all that `put_relay` handed over has been received: for tests and measurements."""
        ...

    def events(self) -> list[Event]: ...
    def corked(self) -> AbstractContextManager[None]:
        """What verdicts release inside, and `send_control` sends, leaves together at the end: fewer system calls."""
        ...

    def flush(self) -> None:
        """Inside: what waits leaves now, before something that takes long."""
        ...

    def verdict(self, flow: int, verdict: Verdict, rule: int, generation: int, not_after: int = NEVER) -> bool:
        """not_after: from this `boottime_ms` on an ALLOW counts no more, until there is another. False: the flow is gone."""
        ...

    def flows(self) -> list[Flow]:
        """All that live, which takes 5 us each: where many may live, `flow_pages`, with time for others between two."""
        ...

    def flow_pages(self) -> Iterator[list[Flow]]:
        """The same, a few at a time. A flow that lives from the first page to the last is in one of them."""
        ...

    def find_flows(self, flows: Collection[int]) -> list[Flow]:
        """Those of these ids that live."""
        ...

    def alive(self, flows: Collection[int]) -> set[int]:
        """The ids, of these, whose flows live."""
        ...

    def ended(self) -> tuple[list[Flow], int]:
        """Allowed flows that ended since the last call, as they were then, oldest first; and how many more there were than
        an engine keeps (32,768)."""
        ...

    def ended_pages(self) -> Iterator[tuple[list[Flow], int]]:
        """The same, a few at a time."""
        ...

    def counters(self) -> dict[str, int]: ...
