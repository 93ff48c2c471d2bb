"""The signed head of a tenant's audit log: what makes a rewritten history show (docs/protocol.md §11)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kairos.audit.merkle import verify_consistency, verify_inclusion
from kairos.errors import Refused

RETIRED = "audit.retired"  # kind of the event by which the fabric says which events lose their text


class SignedHead(msgspec.Struct, frozen=True):
    """The log of `tenant` holds `size` events under the Merkle `root` (32 bytes); at: Unix seconds of the fabric's clock.

    signature: by the issuing key, context AUDIT_HEAD, over transcript.audit_head(...). issuer: the certificate (DER) of that
    key, so that whoever has the root certificate can check a head years later, alone.
    """

    tenant: str
    size: int
    root: bytes
    at: int
    signature: bytes
    issuer: bytes


class Consistency(msgspec.Struct, frozen=True):
    """That the log of `first` events is the beginning of the log of `second`."""

    first: int
    second: int
    proof: list[bytes]


class EventProof(msgspec.Struct, frozen=True):
    """That an event is in the log: its line as it was hashed, its position, the path to the head's root."""

    line: str
    position: int
    path: list[bytes]
    head: SignedHead


class SealedSegment(msgspec.Struct, frozen=True):
    """Events first to head.size - 1. lines: each event as JSON, with a newline behind it, or nothing when the tenant's retention
    has deleted them; leaves: their leaf hashes as the log keeps them, 32 bytes each; head: signed when the segment was sealed."""

    first: int
    lines: bytes
    leaves: bytes
    head: SignedHead


def verify_successor(held: SignedHead, shown: SignedHead, proof: Sequence[bytes]) -> None:
    """Whoever saw `held` may believe `shown`. Raises Refused (audit-foreign, audit-shrunk, audit-forked)."""
    if shown.tenant != held.tenant:
        raise Refused("audit-foreign", f"this is the log of tenant {shown.tenant}, not of {held.tenant}")
    if shown.size < held.size:
        raise Refused("audit-shrunk", f"the log had {held.size} events and is said to have {shown.size}")
    verify_consistency(held.size, held.root, shown.size, shown.root, proof)


def verify_event(leaf: bytes, proof: EventProof) -> None:
    """Raises Refused (audit-not-included)."""
    verify_inclusion(leaf, proof.position, proof.head.size, proof.path, proof.head.root)
