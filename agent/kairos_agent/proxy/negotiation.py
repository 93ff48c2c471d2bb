"""What a program asks of the proxy before its stream begins: SOCKS5 (RFC 1928, 1929) or HTTP CONNECT (RFC 9110 §9.3.6). No I/O.

The user name, which we have no other use for, may name a VNI: `socks5h://office@127.0.0.1:1080`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address

from kairos.errors import BadMessage
from kairos.protocol.path import format_address

NAME_MAX = 253  # of a host, as DNS has it
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """host: an address, or a name in lower case without the dot of the root; vni: name or number, empty when none is named."""

    host: Address | str
    port: int
    vni: str = ""

    def __str__(self) -> str:
        return format_address((str(self.host), self.port)) + (f" in {self.vni}" if self.vni else "")


class Outcome(Enum):
    """How it went: the SOCKS reply (RFC 1928 §6), the HTTP status and what it says."""

    OPENED = (0x00, 200, "Connection established")
    BUSY = (0x01, 503, "Too many streams")
    DENIED = (0x02, 403, "Denied by policy")
    NO_WAY = (0x03, 502, "No VNI of this device leads there")
    UNREACHABLE = (0x04, 502, "Host unreachable")
    REFUSED = (0x05, 502, "Connection refused")
    TIMED_OUT = (0x06, 504, "No answer")

    @property
    def socks(self) -> int:
        return self.value[0]

    @property
    def http(self) -> int:
        return self.value[1]

    @property
    def text(self) -> str:
        return self.value[2]


class Negotiation(ABC):
    """Fed with bytes until `target` is there; then `answer` once. `rest`: what came behind the request, the stream's own.
    `last_words`: to be sent before closing, after BadMessage."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.last_words = b""
        self._buffer = b""

    @property
    def rest(self) -> bytes:
        return self._buffer

    @abstractmethod
    def receive_untrusted(self, data: bytes) -> bytes:
        """What to send at once. Raises BadMessage: close, after `last_words`."""

    @abstractmethod
    def answer(self, outcome: Outcome) -> bytes: ...

    def _bad(self, last_words: bytes, text: str) -> BadMessage:
        self.last_words = last_words
        return BadMessage(text)


def host_untrusted(text: bytes) -> Address | str:
    """A name, or an address written as one. Raises BadMessage."""
    try:
        name = text.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError:
        raise BadMessage("a host's name is ASCII") from None
    try:
        return unmapped(ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    labels = name.split(".")
    if len(name) > NAME_MAX or not all(0 < len(label) <= 63 and _is_label(label) for label in labels):
        raise BadMessage("no name of a host")
    return name


def unmapped(address: Address) -> Address:
    """::ffff:10.7.0.5 is 10.7.0.5."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise BadMessage("an address with a zone means nothing beyond this host")
    return mapped or address


def _is_label(label: str) -> bool:
    return all(character.isalnum() or character in "-_" for character in label)
