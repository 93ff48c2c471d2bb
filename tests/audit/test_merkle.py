"""The tree against RFC 9162 read literally: recursion over whole lists of leaves."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.audit.merkle import (
    EMPTY_ROOT,
    Tree,
    consistency,
    inclusion,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from kairos.errors import Refused

MOST = 70
LEAVES = [leaf_hash(b"event %d" % number) for number in range(MOST)]
TREE = Tree(LEAVES)


def split(count: int) -> int:
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    """§2.1.1"""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """§2.1.3.1"""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """§2.1.4.1"""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def test_hashes_are_those_of_the_standard() -> None:
    assert leaf_hash(b"") == hashlib.sha256(b"\x00").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == hashlib.sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()
    assert Tree().root() == EMPTY_ROOT == hashlib.sha256().digest()


@given(st.integers(0, MOST))
def test_a_root_is_known_for_every_size_the_log_ever_had(size: int) -> None:
    assert TREE.root(size) == mth(LEAVES[:size]) == Tree(LEAVES[:size]).root()


@given(st.data())
def test_inclusion(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, MOST))
    position = data.draw(st.integers(0, size - 1))
    proof = inclusion(position, size, TREE.node)
    assert proof == path(position, LEAVES[:size])
    verify_inclusion(LEAVES[position], position, size, proof, TREE.root(size))


@given(st.data())
def test_consistency(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, MOST))
    first = data.draw(st.integers(1, second))
    proof = consistency(first, second, TREE.node)
    assert proof == subproof(first, LEAVES[:second], True)
    verify_consistency(first, TREE.root(first), second, TREE.root(second), proof)


@given(st.data())
def test_a_proof_holds_for_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, MOST))
    position = data.draw(st.integers(0, size - 1))
    proof, root = inclusion(position, size, TREE.node), TREE.root(size)
    elsewhere = data.draw(st.integers(0, size - 1).filter(lambda each: each != position))
    for leaf, at, steps in (
        (LEAVES[elsewhere], position, proof),
        (LEAVES[position], elsewhere, proof),
        (LEAVES[position], position, proof[:-1]),
        (LEAVES[position], position, [*proof, bytes(32)]),
        (LEAVES[position], size, proof),
    ):
        with pytest.raises(Refused):
            verify_inclusion(leaf, at, size, steps, root)


@given(st.data())
def test_a_rewritten_history_has_no_consistency_proof(data: st.DataObject) -> None:
    """Whatever is changed among the first leaves: the honest proof of the new log, a cut, an extended one, none convinces."""
    second = data.draw(st.integers(2, MOST))
    first = data.draw(st.integers(1, second))
    changed = data.draw(st.integers(0, first - 1))
    other = Tree([*LEAVES[:changed], leaf_hash(b"rewritten"), *LEAVES[changed + 1 : second]])
    proof = consistency(first, second, other.node)
    for steps in (proof, proof[:-1], [*proof, bytes(32)], []):
        with pytest.raises(Refused) as refusal:
            verify_consistency(first, TREE.root(first), second, other.root(), steps)
        assert refusal.value.code == "audit-forked"


@given(st.integers(0, 80), st.integers(0, 80), st.lists(st.binary(min_size=32, max_size=32), max_size=9))
def test_any_proof_at_all_is_judged(first: int, second: int, proof: list[bytes]) -> None:
    """Random hashes convince nobody, of any sizes, and break nothing."""
    with pytest.raises(Refused):
        verify_consistency(first, b"a" * 32, second, b"b" * 32, proof)
    with pytest.raises(Refused):
        verify_inclusion(b"a" * 32, first, second, proof, b"b" * 32)


def test_an_empty_log_is_the_beginning_of_any() -> None:
    verify_consistency(0, EMPTY_ROOT, 7, TREE.root(7), [])
    with pytest.raises(Refused):
        verify_consistency(0, bytes(32), 7, TREE.root(7), [])
