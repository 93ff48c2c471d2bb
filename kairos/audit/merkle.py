"""The Merkle tree of RFC 9162 §2.1 over a log that only grows.

A tree of n leaves is made of *complete* subtrees, which never change again once they are there: the one at (level, index) stands over
the leaves index·2^level up to (index + 1)·2^level. Whoever keeps those can name the root of the log at any size it ever had, and prove
that an event is in it (inclusion) and that a shorter log is its beginning (consistency). Proofs are lists of 32-byte hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from kairos.errors import Refused

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = Callable[[int, int], bytes]  # (level, index) of a complete subtree -> its hash


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def grow(size: int, leaf: bytes, node: Node) -> Iterator[tuple[int, int, bytes]]:
    """The complete subtrees (level, index, hash) that the leaf at position `size` finishes, its own first."""
    level, index, value = 0, size, leaf
    yield level, index, value
    while index & 1:
        value = node_hash(node(level, index - 1), value)
        level, index = level + 1, index >> 1
        yield level, index, value


def root_at(size: int, node: Node) -> bytes:
    """The root over the first `size` leaves."""
    return _span(0, size, node) if size else EMPTY_ROOT


def inclusion(position: int, size: int, node: Node) -> list[bytes]:
    """PATH of RFC 9162 §2.1.3.1: leaf `position` is in the log of `size` leaves."""
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if position < middle:
            path.append(_span(middle, end, node))
            end = middle
        else:
            path.append(_span(start, middle, node))
            start = middle
    return path[::-1]


def consistency(first: int, second: int, node: Node) -> list[bytes]:
    """PROOF of RFC 9162 §2.1.4.1: the log of `first` leaves, at least one, is the beginning of the log of `second`."""
    proof: list[bytes] = []
    start, end, whole = 0, second, True  # whole: the span that is left is one that the older root names itself
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(_span(middle, end, node))
            end = middle
        else:
            proof.append(_span(start, middle, node))
            start, whole = middle, False
    if not whole:
        proof.append(_span(start, end, node))
    return proof[::-1]


def verify_inclusion(leaf: bytes, position: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 §2.1.3.2. Raises Refused (audit-not-included)."""
    if not 0 <= position < size:
        raise Refused("audit-not-included", f"position {position} is not in a log of {size} events")
    value, index, last = leaf, position, size - 1
    for step in path:
        if last == 0:
            raise Refused("audit-not-included", "the inclusion proof is too long")
        if index & 1 or index == last:
            value = node_hash(step, value)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            value = node_hash(value, step)
        index, last = index >> 1, last >> 1
    if last or value != root:
        raise Refused("audit-not-included", f"the event is not the one at position {position} under this head")


def verify_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2. Raises Refused (audit-forked): the newer log does not begin with the older."""
    if first == second or first == 0:
        agrees = first_root == (second_root if first == second else EMPTY_ROOT) and not proof
    else:
        agrees = 0 < first < second and (first_root, second_root) == _roots(first, second, first_root, proof)
    if not agrees:
        raise Refused(
            "audit-forked", f"the log of {second} events does not begin with the log of {first} that was seen before"
        )


def _roots(first: int, second: int, first_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Both roots as the proof has them, None for a proof of the wrong length."""
    steps = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not steps:
        return None
    index, last = first - 1, second - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    older = newer = steps[0]
    for step in steps[1:]:
        if last == 0:
            return None
        if index & 1 or index == last:
            older, newer = node_hash(step, older), node_hash(step, newer)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            newer = node_hash(newer, step)
        index, last = index >> 1, last >> 1
    return None if last else (older, newer)


class Tree:
    """A whole log's tree in memory."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}
        self.size = 0
        for leaf in leaves:
            self.append(leaf)

    def node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def append(self, leaf: bytes) -> None:
        for level, index, value in grow(self.size, leaf, self.node):
            self._nodes[level, index] = value
        self.size += 1

    def root(self, size: int | None = None) -> bytes:
        """At `size`, or as it is now."""
        return root_at(self.size if size is None else size, self.node)


def _split(count: int) -> int:
    """The largest power of two below count, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1


def _span(start: int, end: int, node: Node) -> bytes:
    """MTH of the leaves from start to end: a span as RFC 9162 cuts them, so its start is a multiple of its left half."""
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(count)
    return node_hash(_span(start, middle, node), _span(middle, end, node))
