"""A session and a relay queue: keys, counters, windows, leases, and where datagrams go."""

from __future__ import annotations

import errno
import os
from collections import deque
from dataclasses import dataclass, field
from ipaddress import ip_address

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kairos.protocol.replay import ReplayWindow
from kairos.wire.datagram import DATA_OVERHEAD, HEADER, TAG_BYTES, DatagramHeader, DatagramType, nonce
from kairos_dataplane.engine import NEVER, Address, Network, PathKind, SessionKey, boottime_ms
from kairos_dataplane.pure.packet import PACKET_MAX

EPOCHS = 4
SEALED_OVERHEAD = HEADER.size + TAG_BYTES
UDP_PAYLOAD_MAX = 65_000
_RELAY_BYTES = 1 << 20


def refused(number: int) -> OSError:
    """The error that the C face gives, in the class Python has for it."""
    return OSError(number, os.strerror(number))


@dataclass(slots=True)
class _ReceiveEpoch:
    epoch: int
    key: AESGCM
    iv: bytes
    not_after: int
    window: ReplayWindow = field(default_factory=ReplayWindow)


@dataclass(slots=True)
class Session:
    index: int
    vni: int
    remote: int = 0
    leases: dict[Network, int] = field(default_factory=dict)
    """With the `boottime_ms` at which each ends."""
    not_after: int = NEVER
    path: PathKind = PathKind.NONE
    address: Address | None = None
    relay: int = 0
    follow: bool = False
    sent: int = 0
    received: int = 0
    forged: int = 0
    replayed: int = 0
    spoofed: int = 0
    limit: int = 0  # bytes of the largest datagram that the path carries; 0: not known
    newest: tuple[int, int] = (0, 0)  # epoch, counter: only the newest datagram may move the path
    _receive: list[_ReceiveEpoch] = field(default_factory=list)
    _transmit: tuple[int, AESGCM, bytes, int] | None = None

    def has_had(self, key: SessionKey) -> bool:
        """A window never starts again, nor does a counter under its key."""
        if key.transmit:
            return self._transmit is not None and self._transmit[0] >= key.epoch
        return any(known.epoch == key.epoch for known in self._receive)

    def install(self, key: SessionKey) -> None:
        if key.transmit:
            self._transmit, self.sent = (key.epoch, AESGCM(key.key), key.iv, key.not_after), 0
            return
        if len(self._receive) == EPOCHS:
            self._receive.remove(min(self._receive, key=lambda known: known.epoch))
        self._receive.append(_ReceiveEpoch(key.epoch, AESGCM(key.key), key.iv, key.not_after))

    def retire_receive(self, epoch: int) -> None:
        self._receive = [known for known in self._receive if known.epoch != epoch]

    @property
    def most(self) -> int:
        """Bytes of the largest inner packet that the path carries."""
        return self.limit - DATA_OVERHEAD if self.limit else PACKET_MAX

    def why_not_seal(self) -> str:
        """The counter of the drop; empty when it can."""
        if self._transmit is None:
            return "drop_no_key"
        now = boottime_ms()
        if now >= self.not_after:
            return "drop_expired_session"
        return "drop_expired_key" if now >= self._transmit[3] else ""

    def seal(self, kind: DatagramType, plain: bytes) -> bytes:
        if self._transmit is None:
            raise refused(errno.ENOKEY)
        epoch, key, iv, _ = self._transmit
        header = DatagramHeader(kind, epoch & 0xFFFF, self.remote, self.sent).pack()
        sealed = key.encrypt(nonce(iv, self.sent), plain, header)
        self.sent += 1
        return header + sealed

    def open(self, header: DatagramHeader, datagram: bytes) -> bytes | str:
        """The plaintext, or the counter of the drop."""
        if boottime_ms() >= self.not_after:
            return "drop_expired_session"
        known = next((known for known in self._receive if known.epoch & 0xFFFF == header.epoch), None)
        if known is None:
            return "drop_unknown_epoch"
        if boottime_ms() >= known.not_after:
            return "drop_expired_key"
        try:
            plain = known.key.decrypt(nonce(known.iv, header.counter), datagram[HEADER.size :], datagram[: HEADER.size])
        except InvalidTag:
            self.forged += 1
            return "drop_auth"
        if not known.window.accept(header.counter):
            self.replayed += 1
            return "drop_replay"
        self.received += 1
        return plain

    def is_newest(self, header: DatagramHeader) -> bool:
        """Remembers it when it is."""
        epoch = next(known.epoch for known in self._receive if known.epoch & 0xFFFF == header.epoch)
        if (epoch, header.counter) < self.newest:
            return False
        self.newest = epoch, header.counter
        return True

    def why_not_from(self, src: bytes) -> str:
        """The counter of the drop of a packet with this source; empty when a lease of the session has it."""
        ends = [not_after for lease, not_after in self.leases.items() if ip_address(src) in lease]
        if not ends:
            return "drop_spoofed_source"
        return "" if max(ends) > boottime_ms() else "drop_expired_lease"


class RelayQueue:
    """Sealed datagrams that leave through a relay, `u16 length | datagram` each. Full: the oldest go."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self._bytes = 0
        self.told = False  # somebody knows that something waits

    def put(self, datagram: bytes) -> int:
        """How many old ones went."""
        record = len(datagram).to_bytes(2) + datagram
        dropped = 0
        while self._bytes + len(record) > _RELAY_BYTES:
            self._bytes -= len(self._records.popleft())
            dropped += 1
        self._records.append(record)
        self._bytes += len(record)
        return dropped

    def take(self, maximum: int) -> bytes:
        taken = bytearray()
        while self._records and len(taken) + len(self._records[0]) <= maximum:
            taken += self._records.popleft()
        self._bytes -= len(taken)
        self.told = bool(self._records)
        return bytes(taken)
