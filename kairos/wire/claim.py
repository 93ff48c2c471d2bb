"""What an endpoint says of a flow that it lets out: the payload of a CLAIM datagram (docs/protocol.md §6).

Nobody can check it, so it is policy's to weigh: `input.claims`. It carries the endpoint's verdict too, so that a gateway
which comes to another one can say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from kairos.errors import BadMessage
from kairos.policy.input import Application
from kairos.wire.codec import Reader, Writer

_TEXT_MAX = 256
_SHA256_BYTES = 32


@dataclass(frozen=True, slots=True)
class FlowClaim:
    """protocol: the IP number; ports: for ICMP echo both are the id; policy_version, rule: by which it was allowed;
    app: None when the endpoint does not know."""

    protocol: int
    src: IPv4Address | IPv6Address
    src_port: int
    dst: IPv4Address | IPv6Address
    dst_port: int
    policy_version: int
    rule: str
    app: Application | None

    def pack(self) -> bytes:
        """A text that is too long for the datagram is left out: a claim of less is still true."""
        writer = Writer().uint(self.protocol, 1)
        for address, port in ((self.src, self.src_port), (self.dst, self.dst_port)):
            writer.opaque(address.packed).uint(port, 2)
        writer.uint(self.policy_version, 8).text(_short(self.rule)).uint(self.app is not None, 1)
        if self.app is not None:
            writer.text(_short(self.app.path)).uint(self.app.uid, 4).text(_short(self.app.unit))
            writer.opaque(bytes.fromhex(self.app.sha256))
        return writer.finish()

    @classmethod
    def parse_untrusted(cls, payload: bytes) -> FlowClaim:
        """Raises BadMessage."""
        reader = Reader(payload)
        protocol = reader.uint(1)
        src, src_port, dst, dst_port = _address(reader), reader.uint(2), _address(reader), reader.uint(2)
        version, rule, known = reader.uint(8), reader.text(_TEXT_MAX), reader.uint(1)
        if known > 1:
            raise BadMessage(f"a claim that knows its program {known} times")
        app = _application(reader) if known else None
        reader.finish()
        return cls(protocol, src, src_port, dst, dst_port, version, rule, app)


def _application(reader: Reader) -> Application:
    path, uid, unit = reader.text(_TEXT_MAX), reader.uint(4), reader.text(_TEXT_MAX)
    return Application(path, uid, unit, reader.opaque(_SHA256_BYTES).hex())


def _address(reader: Reader) -> IPv4Address | IPv6Address:
    packed = reader.opaque(16)
    if len(packed) not in (4, 16):
        raise BadMessage(f"an address of {len(packed)} bytes")
    return ip_address(packed)


def _short(text: str) -> str:
    return text if len(text.encode()) <= _TEXT_MAX else ""
