"""The C engine behind the typed face. No cffi type leaves this module."""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from kairos_dataplane._kdp import ffi, lib
from kairos_dataplane.engine import (
    FRAME_MAX,
    NEVER,
    Address,
    ControlReceived,
    End,
    Event,
    Flow,
    FlowOpened,
    Mapping,
    Network,
    Offences,
    PathKind,
    PathMoved,
    RelayReady,
    SessionKey,
    TunFailing,
    Verdict,
)

_EVENTS = 64
_ERROR = 600  # bytes of the reason why an engine cannot be made
_CLOSING = 16  # threads
_PAGE = 128  # flows: half a millisecond
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_ENDS = {end.value: end for end in End}
_ADDRESSES = 4096
# kdp_flow in one go: cffi would look each of its members up by name, for each new connection.
_FLOW = struct.Struct("@Q3I4B2H16s16s2B2I6Q")
assert _FLOW.size == ffi.sizeof("kdp_flow")


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@lru_cache(_ADDRESSES)
def _known_ip(family: int, raw: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(raw[:4]) if family == 4 else ipaddress.IPv6Address(raw)


def _address(raw: Any) -> Address | None:
    return None if raw.family == 0 else (str(_known_ip(raw.family, ffi.buffer(raw.ip)[:])), raw.port)


def _pack_address(address: Address) -> Any:
    ip = ipaddress.ip_address(address[0])
    return ffi.new("kdp_addr *", {"family": ip.version, "port": address[1], "ip": ip.packed.ljust(16, b"\0")})


def _prefix(network: Network) -> bytes:
    return network.network_address.packed.ljust(16, b"\0")


def _flow(raw: Any) -> Flow:
    """raw: a kdp_flow."""
    (
        id_, vni, session, from_vni, family, protocol, icmp_type, tcp_flags, src_port, dst_port, src, dst, verdict, ended, rule,
        generation, packets, packets_back, octets, octets_back, age_ms, idle_ms,
    ) = _FLOW.unpack(ffi.buffer(ffi.addressof(raw)))  # fmt: skip
    return Flow(
        id_,
        vni,
        session,
        protocol,
        _known_ip(family, src),
        _known_ip(family, dst),
        src_port,
        dst_port,
        icmp_type,
        tcp_flags,
        _VERDICTS[verdict],
        rule,
        generation,
        (packets, packets_back),
        (octets, octets_back),
        age_ms / 1000,
        idle_ms / 1000,
        from_vni,
        _ENDS[ended],
    )


def _event(raw: Any) -> Event:
    if raw.type == lib.KDP_EVENT_FLOW:
        return FlowOpened(_flow(raw.flow))
    if raw.type == lib.KDP_EVENT_CONTROL:
        payload = bytes(ffi.buffer(raw.payload, raw.payload_len))
        return ControlReceived(raw.session, raw.control_type, payload, _address(raw.addr), raw.relay, raw.size)
    if raw.type == lib.KDP_EVENT_PATH:
        return PathMoved(raw.session, PathKind(raw.path), _address(raw.addr), raw.relay)
    if raw.type == lib.KDP_EVENT_TUN:
        return TunFailing(raw.vni, raw.error)
    return RelayReady(raw.relay)


class NativeEngine:
    """See `Dataplane`. cffi gives the interpreter lock up while C runs."""

    def __init__(self, aead: str, max_flows: int) -> None:
        error = ffi.new("char[]", _ERROR)
        self._engine = lib.kdp_create(aead.encode(), max_flows, error, _ERROR)
        if self._engine == ffi.NULL:
            raise RuntimeError(ffi.string(error).decode())
        self._frame = ffi.new("uint8_t[]", FRAME_MAX)
        self._events = ffi.new("kdp_event[]", _EVENTS)
        self._vnis: set[int] = set()

    @property
    def _live(self) -> Any:
        """The engine. Raises OSError (EBADF) once it is closed."""
        if self._engine == ffi.NULL:
            raise OSError(errno.EBADF, "the data plane is closed")
        return self._engine

    @property
    def name(self) -> str:
        return "c"

    @property
    def description(self) -> str:
        unused = ffi.string(lib.kdp_aead_unused(self._engine)).decode()
        return f"C, {self.aead}" + (f" (ipsec-mb cannot be used: {unused})" if unused else "")

    @property
    def aead(self) -> str:
        return str(ffi.string(lib.kdp_aead_name(self._live)).decode())

    @property
    def event_fd(self) -> int:
        return int(lib.kdp_event_fd(self._live))

    def close(self) -> None:
        if self._engine != ffi.NULL:
            # At the last close of a TUN the kernel waits some 20 ms for whoever may still look at it: let them be closed together.
            with ThreadPoolExecutor(_CLOSING) as closing:
                list(closing.map(self.remove_vni, list(self._vnis)))
            lib.kdp_destroy(self._engine)
            self._engine = ffi.NULL

    def set_udp(self, fd: int) -> None:
        _check(lib.kdp_set_udp(self._live, fd))

    def add_vni(self, vni: int, tun_fd: int) -> None:
        _check(lib.kdp_vni_add(self._live, vni, tun_fd))
        self._vnis.add(vni)

    def remove_vni(self, vni: int) -> None:
        self._vnis.discard(vni)
        _check(lib.kdp_vni_remove(self._live, vni))

    def add_route(self, vni: int, prefix: Network, next_hop: int) -> None:
        _check(lib.kdp_fib_add(self._live, vni, prefix.version, _prefix(prefix), prefix.prefixlen, next_hop))

    def remove_route(self, vni: int, prefix: Network) -> None:
        _check(lib.kdp_fib_remove(self._live, vni, prefix.version, _prefix(prefix), prefix.prefixlen))

    def add_mapping(self, vni: int, mapping: Mapping) -> None:
        seen, real = _prefix(mapping.seen), _prefix(mapping.real)
        _check(
            lib.kdp_mapping_add(self._live, vni, mapping.seen.version, mapping.seen.prefixlen, seen, mapping.to, real)
        )

    def remove_mapping(self, vni: int, mapping: Mapping) -> None:
        seen = mapping.seen
        _check(lib.kdp_mapping_remove(self._live, vni, seen.version, seen.prefixlen, _prefix(seen)))

    def set_router(self, vni: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        _check(lib.kdp_vni_router(self._live, vni, address.version, address.packed))

    def add_session(self, vni: int) -> int:
        index = ffi.new("uint32_t *")
        _check(lib.kdp_session_add(self._live, vni, index))
        return int(index[0])

    def set_remote(self, session: int, remote_index: int) -> None:
        _check(lib.kdp_session_remote(self._live, session, remote_index))

    def cut_session(self, session: int) -> None:
        _check(lib.kdp_session_cut(self._live, session))

    def cut_sessions(self, sessions: Collection[int]) -> None:
        lib.kdp_sessions_cut(self._live, ffi.new("uint32_t[]", list(sessions)), len(sessions))

    def set_deadline(self, session: int, not_after: int) -> None:
        _check(lib.kdp_session_until(self._live, session, not_after))

    def add_lease(self, session: int, prefix: Network, not_after: int = NEVER) -> None:
        packed = _prefix(prefix)
        _check(lib.kdp_session_lease(self._live, session, prefix.version, packed, prefix.prefixlen, not_after))

    def install_keys(self, keys: Collection[SessionKey]) -> None:
        raw = ffi.new("kdp_key[]", len(keys))
        try:
            for place, key in zip(raw, keys, strict=True):
                place.session, place.epoch, place.transmit = key.session, key.epoch, key.transmit
                place.not_after_ms, place.key, place.iv = key.not_after, key.key, key.iv
            _check(lib.kdp_keys_install(self._live, raw, len(keys)))
        finally:
            ffi.memmove(raw, bytes(ffi.sizeof(raw)), ffi.sizeof(raw))  # no copy of a key stays

    def retire_receive(self, epoch: int, sessions: Collection[int]) -> None:
        _check(lib.kdp_keys_retire(self._live, epoch, ffi.new("uint32_t[]", list(sessions)), len(sessions)))

    def use_relay(self, session: int, relay: int, follow: bool) -> None:
        _check(lib.kdp_session_path(self._live, session, lib.KDP_PATH_RELAY, ffi.NULL, relay, follow))

    def use_direct(self, session: int, address: Address, follow: bool, relay: int = 0) -> None:
        packed = _pack_address(address)
        _check(lib.kdp_session_path(self._live, session, lib.KDP_PATH_DIRECT, packed, relay, follow))

    def set_limit(self, session: int, limit: int) -> None:
        _check(lib.kdp_session_limit(self._live, session, limit))

    def session_stats(self, session: int) -> tuple[int, int]:
        sent, received = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        _check(lib.kdp_session_stats(self._live, session, sent, received))
        return int(sent[0]), int(received[0])

    def session_offences(self, session: int) -> Offences:
        forged, replayed, spoofed = (ffi.new("uint64_t *") for _ in range(3))
        _check(lib.kdp_session_offences(self._live, session, forged, replayed, spoofed))
        return Offences(int(forged[0]), int(replayed[0]), int(spoofed[0]))

    def send_control(
        self, session: int, kind: int, payload: bytes, to: Address | None = None, via_relay: bool = False, size: int = 0
    ) -> None:
        packed = ffi.NULL if to is None else _pack_address(to)
        _check(lib.kdp_control_send(self._live, session, kind, payload, len(payload), size, packed, via_relay))

    def add_relay(self, relay: int) -> None:
        _check(lib.kdp_relay_add(self._live, relay))

    def remove_relay(self, relay: int) -> None:
        _check(lib.kdp_relay_remove(self._live, relay))

    def take_relay(self, relay: int) -> bytes:
        size = _check(lib.kdp_relay_take(self._live, relay, self._frame, FRAME_MAX))
        return bytes(ffi.buffer(self._frame, size))

    def take_relay_into(self, relay: int, into: memoryview) -> int:
        return _check(lib.kdp_relay_take(self._live, relay, ffi.from_buffer("uint8_t[]", into, True), len(into)))

    def put_relay(self, relay: int, datagrams: bytes | memoryview) -> None:
        _check(lib.kdp_relay_put(self._live, relay, ffi.from_buffer(datagrams), len(datagrams)))

    def settle(self) -> None:
        lib.kdp_settle(self._live)

    def events(self) -> list[Event]:
        count = lib.kdp_events(self._live, self._events, _EVENTS)
        return [_event(self._events[i]) for i in range(count)]

    @contextmanager
    def corked(self) -> Iterator[None]:
        lib.kdp_cork(self._live)
        try:
            yield
        finally:
            lib.kdp_uncork(self._live)

    def flush(self) -> None:
        lib.kdp_flush(self._live)

    def verdict(self, flow: int, verdict: Verdict, rule: int, generation: int, not_after: int = NEVER) -> bool:
        return int(lib.kdp_flow_verdict(self._live, flow, verdict, rule, generation, not_after)) == 0

    def flows(self) -> list[Flow]:
        return [flow for page in self.flow_pages() for flow in page]

    def flow_pages(self) -> Iterator[list[Flow]]:
        raw, cursor = ffi.new("kdp_flow[]", _PAGE), ffi.new("uint32_t *")
        while True:
            count = lib.kdp_flows(self._live, cursor, raw, _PAGE)
            yield [_flow(raw[i]) for i in range(count)]
            if cursor[0] == 0:
                return

    def find_flows(self, flows: Collection[int]) -> list[Flow]:
        raw = ffi.new("kdp_flow[]", len(flows))
        found = lib.kdp_flows_find(self._live, ffi.new("uint64_t[]", list(flows)), len(flows), raw)
        return [_flow(raw[i]) for i in range(found)]

    def alive(self, flows: Collection[int]) -> set[int]:
        ids = ffi.new("uint64_t[]", list(flows))
        return set(ffi.unpack(ids, lib.kdp_flows_alive(self._live, ids, len(flows))))

    def ended(self) -> tuple[list[Flow], int]:
        pages = list(self.ended_pages())
        return [flow for flows, _ in pages for flow in flows], sum(untold for _, untold in pages)

    def ended_pages(self) -> Iterator[tuple[list[Flow], int]]:
        raw, untold = ffi.new("kdp_flow[]", _PAGE), ffi.new("uint64_t *")
        while True:
            count = lib.kdp_ended(self._live, raw, _PAGE, untold)
            yield [_flow(raw[i]) for i in range(count)], int(untold[0])
            if count < _PAGE:
                return

    def counters(self) -> dict[str, int]:
        values = ffi.new("uint64_t[]", 256)
        count = lib.kdp_counters(self._live, values, 256)
        return {ffi.string(lib.kdp_counter_name(i)).decode(): values[i] for i in range(count)}
