"""DER (X.690 §8, §10): the few types that the fabric's certificates are made of, each value in its one encoding.

`Reader` accepts exactly what the functions below it write. What BER allows besides (indefinite or padded lengths, padded
integers, bytes after the end) is refused, so two different certificates never read alike.
"""

from __future__ import annotations

from datetime import UTC, datetime

from kairos.errors import BadMessage

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, UTF8_STRING = 0x01, 0x02, 0x03, 0x04, 0x06, 0x0C
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31
GENERALIZED_FROM = 2050
"""The first year that a certificate writes with four digits (RFC 5280 §4.1.2.5)."""


class Reader:
    """Reads the values of one constructed value from left to right. Every method raises BadMessage."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def next_is(self, tag: int) -> bool:
        """Whether another value follows and has this tag."""
        return self._at < len(self._data) and self._data[self._at] == tag

    def ended(self) -> bool:
        return self._at == len(self._data)

    def end(self) -> None:
        """Nothing may follow."""
        if not self.ended():
            raise BadMessage(f"DER: {len(self._data) - self._at} bytes more than expected")

    def value(self, tag: int) -> bytes:
        """The contents of the next value."""
        if not self.next_is(tag):
            raise BadMessage(f"DER: no value of type {tag:#04x} at byte {self._at}")
        start, size = self._length()
        if size > len(self._data) - start:
            raise BadMessage(f"DER: a value of {size} bytes goes beyond the end")
        self._at = start + size
        return self._data[start : self._at]

    def element(self, tag: int) -> bytes:
        """The next value with its tag and length."""
        start = self._at
        self.value(tag)
        return self._data[start : self._at]

    def inside(self, tag: int) -> Reader:
        """The next value, a constructed one, to be read in its turn."""
        return Reader(self.value(tag))

    def integer(self) -> int:
        data = self.value(INTEGER)
        value = int.from_bytes(data, "big", signed=True)
        if not data or encode_integer(value) != encode(INTEGER, data):
            raise BadMessage("DER: an integer that is not in its shortest form")
        return value

    def text(self) -> str:
        """A UTF8String."""
        return _decoded(self.value(UTF8_STRING), "utf-8")

    def octets_of_bits(self) -> bytes:
        """A BIT STRING of whole octets."""
        data = self.value(BIT_STRING)
        if data[:1] != b"\0":
            raise BadMessage("DER: a bit string that is not of whole octets")
        return data[1:]

    def time(self) -> int:
        """Unix seconds of a UTCTime or GeneralizedTime, in the form that the year demands."""
        tag = UTC_TIME if self.next_is(UTC_TIME) else GENERALIZED_TIME
        data = self.value(tag)
        text = _decoded(data, "ascii")
        century = "" if tag == GENERALIZED_TIME else "19" if text >= "5" else "20"
        try:
            seconds = int(datetime.fromisoformat(f"{century}{text[:-7]}T{text[-7:]}").timestamp())
        except ValueError:
            raise BadMessage(f"DER: {text!r} is not a time") from None
        if encode_time(seconds) != encode(tag, data):
            raise BadMessage(f"DER: {text!r} is not how that time is written")
        return seconds

    def _length(self) -> tuple[int, int]:
        """Where the contents of the next value begin, and their size."""
        first = self._data[self._at + 1 : self._at + 2]
        if not first:
            raise BadMessage("DER: a value without a length")
        start = self._at + 2
        if first[0] < 0x80:
            return start, first[0]
        start += first[0] & 0x7F
        size = int.from_bytes(self._data[self._at + 2 : start], "big")
        if first + self._data[self._at + 2 : start] != _encoded_length(size):
            raise BadMessage("DER: a length that is not in its shortest form")
        return start, size


def encode(tag: int, *contents: bytes) -> bytes:
    """A value of that tag whose contents are the parts, joined."""
    body = b"".join(contents)
    return bytes([tag]) + _encoded_length(len(body)) + body


def encode_integer(value: int) -> bytes:
    return encode(INTEGER, value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "big", signed=True))


def encode_oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    contents = b""
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        contents += bytes(reversed(groups))
    return encode(OID, contents)


def encode_time(seconds: int) -> bytes:
    """Unix seconds as UTCTime before 2050, as GeneralizedTime from then on (RFC 5280 §4.1.2.5)."""
    moment = datetime.fromtimestamp(seconds, UTC)
    digits = f"{moment.year:04}{moment.month:02}{moment.day:02}{moment.hour:02}{moment.minute:02}{moment.second:02}Z"
    if 1950 <= moment.year < GENERALIZED_FROM:
        return encode(UTC_TIME, digits[2:].encode())
    return encode(GENERALIZED_TIME, digits.encode())


def _encoded_length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadMessage(f"DER: {error}") from None
