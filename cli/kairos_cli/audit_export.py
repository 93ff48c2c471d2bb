"""A tenant's audit log in a folder: made by `kairos audit export`, proven by `kairos audit verify`, by anyone, without the fabric.

000000000000000.jsonl       a segment: one event a line, named by the position of the first; none when retention has deleted it
000000000000000.leaves      their leaf hashes as the log keeps them, 32 bytes each
000000000000000.head.json   the head that was signed when it was sealed
head.json                   the newest head at the time of the export
ocsf/                       the same events for a SIEM, if asked for; a file a segment, no part of the proof
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kairos.audit.event import Event
from kairos.audit.head import Consistency, SealedSegment, SignedHead, verify_successor
from kairos.audit.ocsf import records
from kairos.audit.verification import CheckHead, Report, examine
from kairos.errors import UNREADABLE, BadMessage, KairosError
from kairos.identity.certificate import Certificate
from kairos_cli.admin import AdminClient, at
from kairos_cli.fabric.operator import write_files


def export(admin: AdminClient, tenant: str, folder: Path, check: CheckHead) -> SignedHead:
    """Fetches what the folder has not yet. Raises Refused if the log does not go on from what the folder has."""
    newest = admin.get(at(tenant, "audit", "head"), SignedHead)
    check(newest)
    held = read_head(folder / "head.json") if (folder / "head.json").exists() else None
    if held is not None:
        require_successor(admin, held, newest)
    size = held.size if held is not None else 0
    while size < newest.size:
        segment = admin.get(at(tenant, "audit", "segments", str(size)), SealedSegment)
        if segment.head.size <= size:
            raise BadMessage(f"the fabric's segment from {size} on is empty")
        write_files(folder, _files(segment))
        size = segment.head.size
    write_files(folder, [("head.json", as_line(newest))])
    return newest


def write_ocsf(folder: Path) -> int:
    """What the folder has, in FOLDER/ocsf, a file a segment; those that are there stay. Returns how many records are new."""
    written = 0
    for path in sorted(folder.glob("[0-9]*.jsonl")):
        if not (folder / "ocsf" / path.name).exists():
            events = (msgspec.json.decode(line, type=Event) for line in path.read_bytes().splitlines())
            lines = [msgspec.json.encode(each) + b"\n" for event in events for each in records(event)]
            write_files(folder / "ocsf", [(path.name, b"".join(lines))])
            written += len(lines)
    return written


def verify(folder: Path, kept: list[SignedHead], check: CheckHead) -> Report:
    """Raises KairosError for a folder that is no export."""
    return examine(_segments(folder), read_head(folder / "head.json"), kept, check)


def read_head(path: Path) -> SignedHead:
    """A head as an export or a node's state directory has it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SignedHead)
    except FileNotFoundError:
        raise KairosError(f"{path} is missing; make an export with `kairos audit export`") from None
    except UNREADABLE as error:
        raise KairosError(f"{path} is not an audit head: {error}") from None


def as_line(head: SignedHead) -> bytes:
    """What read_head reads."""
    return msgspec.json.encode(head) + b"\n"


def require_successor(admin: AdminClient, held: SignedHead, shown: SignedHead) -> None:
    """Raises Refused unless the fabric proves that the log only grew."""
    proof: list[bytes] = []
    if shown.tenant == held.tenant and shown.size > held.size:
        path = at(held.tenant, "audit", "consistency")
        proof = admin.get(path, Consistency, first=held.size, second=shown.size).proof
    verify_successor(held, shown, proof)


def checker(root: Certificate) -> CheckHead:
    """Heads under this root certificate."""
    from kairos_node.certificates import check_audit_head
    from kairos_node.crypto import provider_named

    provider = provider_named("cryptography")
    return lambda head: check_audit_head(provider, root, head)


def _files(segment: SealedSegment) -> list[tuple[str, bytes]]:
    name = f"{segment.first:015}"
    files = [(f"{name}.leaves", segment.leaves), (f"{name}.head.json", as_line(segment.head))]
    return [(f"{name}.jsonl", segment.lines), *files] if segment.lines else files


def _segments(folder: Path) -> Iterator[SealedSegment]:
    """A file that is gone counts as empty: what that means is for the proof to say."""
    for path in sorted(folder.glob("[0-9]*.head.json")):
        name = path.name.removesuffix(".head.json")
        lines, leaves = (folder / f"{name}{end}" for end in (".jsonl", ".leaves"))
        yield SealedSegment(
            int(name),
            lines.read_bytes() if lines.exists() else b"",
            leaves.read_bytes() if leaves.exists() else b"",
            read_head(path),
        )
