"""Control messages between endpoint and gateway, inside TLS (docs/protocol.md §7).

Each is u32 length | u8 type | body; the length counts type and body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from kairos.constants import CONTROL_MESSAGE_MAX
from kairos.errors import BadMessage
from kairos.wire.codec import Reader, Writer

KEM_BYTES_MAX = 1568  # ML-KEM-1024 key or ciphertext
SIGNATURE_BYTES_MAX = 4627  # ML-DSA-87
LIST_MAX = 4096


@dataclass(frozen=True, slots=True)
class Hello:
    """T3, endpoint: which session this is. provider, version: shown in `status`, decide nothing."""

    session: str
    provider: str
    version: str

    def pack(self) -> bytes:
        return Writer().text(self.session).text(self.provider).text(self.version).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.text(), reader.text(), reader.text())


@dataclass(frozen=True, slots=True)
class KemOffer:
    """T4, gateway: an ephemeral ML-KEM key for this epoch, signed by the gateway's identity."""

    epoch: int
    public_key: bytes
    signature: bytes

    def pack(self) -> bytes:
        return Writer().uint(self.epoch, 4).opaque(self.public_key).opaque(self.signature).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.uint(4), reader.opaque(KEM_BYTES_MAX), reader.opaque(SIGNATURE_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class KemAnswer:
    """T4, endpoint: the encapsulation, signed by the endpoint's identity."""

    epoch: int
    ciphertext: bytes
    signature: bytes

    def pack(self) -> bytes:
        return Writer().uint(self.epoch, 4).opaque(self.ciphertext).opaque(self.signature).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.uint(4), reader.opaque(KEM_BYTES_MAX), reader.opaque(SIGNATURE_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class VniConfig:
    """T5: one VNI as this endpoint has it. index: the receiver index at the gateway; addresses: `10.7.0.5/24`."""

    vni: int
    name: str
    index: int
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    dns_suffix: str

    def write(self, writer: Writer) -> None:
        writer.uint(self.vni, 4).text(self.name).uint(self.index, 4).uint(self.mtu, 2)
        writer.texts(self.addresses).texts(self.routes).text(self.dns_suffix)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        vni, name, index, mtu = reader.uint(4), reader.text(), reader.uint(4), reader.uint(2)
        return cls(vni, name, index, mtu, reader.texts(LIST_MAX), reader.texts(LIST_MAX), reader.text())


@dataclass(frozen=True, slots=True)
class Config:
    """T5, gateway. direct: UDP candidates of the gateway, `host:port`, best first; empty means relay only."""

    revision: int
    vnis: tuple[VniConfig, ...]
    direct: tuple[str, ...]

    def pack(self) -> bytes:
        writer = Writer().uint(self.revision, 8).uint(len(self.vnis), 2)
        for vni in self.vnis:
            vni.write(writer)
        return writer.texts(self.direct).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        revision = reader.uint(8)
        vnis = tuple(VniConfig.read(reader) for _ in range(reader.count(LIST_MAX)))
        return cls(revision, vnis, reader.texts(64))


@dataclass(frozen=True, slots=True)
class Confirm:
    """T5, endpoint: its receiver index in each VNI of the Config it answers."""

    revision: int
    indexes: tuple[tuple[int, int], ...]  # (vni, index)

    def pack(self) -> bytes:
        writer = Writer().uint(self.revision, 8).uint(len(self.indexes), 2)
        for vni, index in self.indexes:
            writer.uint(vni, 4).uint(index, 4)
        return writer.finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        revision = reader.uint(8)
        return cls(revision, tuple((reader.uint(4), reader.uint(4)) for _ in range(reader.count(LIST_MAX))))


@dataclass(frozen=True, slots=True)
class Ready:
    """T6, gateway: both ends hold keys of `epoch`; the endpoint may send under it."""

    epoch: int

    def pack(self) -> bytes:
        return Writer().uint(self.epoch, 4).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.uint(4))


@dataclass(frozen=True, slots=True)
class Ping:
    """Is the other end of this TLS channel alive?"""

    token: int

    def pack(self) -> bytes:
        return Writer().uint(self.token, 8).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.uint(8))


class Pong(Ping):
    """The token of the Ping it answers."""


@dataclass(frozen=True, slots=True)
class Close:
    """T7, either end: keys are wiped when this is sent or received."""

    code: str
    reason: str

    def pack(self) -> bytes:
        return Writer().text(self.code).text(self.reason[:200]).finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(reader.text(), reader.text(1024))


Message = Hello | KemOffer | KemAnswer | Config | Confirm | Ready | Ping | Pong | Close

TYPES: dict[int, type[Message]] = {
    1: Hello,
    2: KemOffer,
    3: KemAnswer,
    4: Config,
    5: Confirm,
    6: Ready,
    7: Ping,
    8: Pong,
    9: Close,
}
_NUMBER = {kind: number for number, kind in TYPES.items()}
_READ: dict[int, Callable[[Reader], Message]] = {number: kind.read for number, kind in TYPES.items()}


def encode(message: Message) -> bytes:
    """One framed message."""
    body = message.pack()
    return (len(body) + 1).to_bytes(4, "big") + bytes([_NUMBER[type(message)]]) + body


def parse_message_untrusted(frame: bytes) -> Message:
    """One message without its length prefix. Raises BadMessage."""
    reader = Reader(frame)
    number = reader.uint(1)
    read = _READ.get(number)
    if read is None:
        raise BadMessage(f"unknown control message type {number}")
    message = read(reader)
    reader.finish()
    return message


class MessageStream:
    """Cuts the byte stream of a TLS channel into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> Iterator[Message]:
        """Yields the messages completed by `data`. Raises BadMessage."""
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if not 1 <= size <= CONTROL_MESSAGE_MAX:
                raise BadMessage(f"control message of {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            frame = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield parse_message_untrusted(frame)
