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
from kairos_dataplane.engine import Address, Network, PathKind
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
    window: ReplayWindow = field(default_factory=ReplayWindow)


@dataclass(slots=True)
class Session:
    index: int
    vni: int
    remote: int = 0
    leases: list[Network] = field(default_factory=list)
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
    _transmit: tuple[int, AESGCM, bytes] | None = None

    def install_receive(self, epoch: int, key: bytes, iv: bytes) -> None:
        if any(known.epoch == epoch for known in self._receive):
            raise refused(errno.EEXIST)  # a window never starts again
        if len(self._receive) == EPOCHS:
            self._receive.remove(min(self._receive, key=lambda known: known.epoch))
        self._receive.append(_ReceiveEpoch(epoch, AESGCM(key), iv))

    def install_transmit(self, epoch: int, key: bytes, iv: bytes) -> None:
        if self._transmit is not None and self._transmit[0] >= epoch:
            raise refused(errno.EEXIST)  # a counter never starts again under its key
        self._transmit, self.sent = (epoch, AESGCM(key), iv), 0

    def retire_receive(self, epoch: int) -> None:
        kept = [known for known in self._receive if known.epoch != epoch]
        if len(kept) == len(self._receive):
            raise refused(errno.ENOENT)
        self._receive = kept

    @property
    def most(self) -> int:
        """Bytes of the largest inner packet that the path carries."""
        return self.limit - DATA_OVERHEAD if self.limit else PACKET_MAX

    @property
    def can_seal(self) -> bool:
        return self._transmit is not None

    def seal(self, kind: DatagramType, plain: bytes) -> bytes:
        if self._transmit is None:
            raise refused(errno.ENOKEY)
        epoch, key, iv = self._transmit
        header = DatagramHeader(kind, epoch & 0xFFFF, self.remote, self.sent).pack()
        sealed = key.encrypt(nonce(iv, self.sent), plain, header)
        self.sent += 1
        return header + sealed

    def open(self, header: DatagramHeader, datagram: bytes) -> bytes | str:
        """The plaintext, or the counter of the drop."""
        known = next((known for known in self._receive if known.epoch & 0xFFFF == header.epoch), None)
        if known is None:
            return "drop_unknown_epoch"
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

    def leases_source(self, src: bytes) -> bool:
        return any(ip_address(src) in lease for lease in self.leases)


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
