"""A bounded reader and writer, big endian. Reading past the end is BadMessage, never an IndexError."""

from __future__ import annotations

from kairos.errors import BadMessage


class Reader:
    """Reads one message front to back; `finish` insists that nothing is left over."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise BadMessage(f"message ends {end - len(self._data)} bytes too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def opaque(self, maximum: int) -> bytes:
        """u16 length | bytes."""
        size = self.uint(2)
        if size > maximum:
            raise BadMessage(f"field of {size} bytes, at most {maximum} allowed")
        return self.take(size)

    def text(self, maximum: int = 256) -> str:
        try:
            return self.opaque(maximum).decode()
        except UnicodeDecodeError:
            raise BadMessage("text field is not UTF-8") from None

    def texts(self, maximum: int) -> tuple[str, ...]:
        """u16 count | text, for each."""
        return tuple(self.text() for _ in range(self.count(maximum)))

    def count(self, maximum: int) -> int:
        number = self.uint(2)
        if number > maximum:
            raise BadMessage(f"list of {number}, at most {maximum} allowed")
        return number

    def finish(self) -> None:
        if self._at != len(self._data):
            raise BadMessage(f"{len(self._data) - self._at} bytes too many")


class Writer:
    """Builds one message; the mirror of Reader."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def raw(self, data: bytes) -> Writer:
        self._parts.append(data)
        return self

    def uint(self, value: int, size: int) -> Writer:
        return self.raw(value.to_bytes(size, "big"))

    def opaque(self, data: bytes) -> Writer:
        return self.uint(len(data), 2).raw(data)

    def text(self, text: str) -> Writer:
        return self.opaque(text.encode())

    def texts(self, texts: tuple[str, ...]) -> Writer:
        self.uint(len(texts), 2)
        for text in texts:
            self.text(text)
        return self

    def finish(self) -> bytes:
        return b"".join(self._parts)
