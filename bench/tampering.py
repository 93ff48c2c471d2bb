"""Every way to tamper with an export of the audit, and what `kairos audit verify` has to call it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kairos.audit.head import SignedHead
from kairos.audit.merkle import HASH_BYTES, Tree, leaf_hash
from kairos.audit.verification import CheckHead
from kairos.crypto import labels
from kairos.crypto.provider import SigningKey
from kairos.identity import transcript
from kairos_cli.audit_export import as_line, read_head, verify

Edit = Callable[[list[bytes]], object]


@dataclass(frozen=True)
class Export:
    """A folder that may be changed. key: the issuing key, stolen."""

    folder: Path
    key: SigningKey

    @property
    def firsts(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.jsonl"))

    def path(self, first: int, end: str) -> Path:
        return self.folder / f"{first:015}.{end}"

    def edit(self, first: int, edit: Edit) -> None:
        """The lines of that segment, and nothing else."""
        path = self.path(first, "jsonl")
        lines = path.read_bytes().splitlines(keepends=True)
        edit(lines)
        path.write_bytes(b"".join(lines))

    def remove(self, first: int) -> None:
        for end in ("jsonl", "leaves", "head.json"):
            self.path(first, end).unlink()

    def cut(self, first: int) -> None:
        """That segment and all behind it: what is left is an export of an earlier day."""
        before = max(each for each in self.firsts if each < first)
        for each in self.firsts:
            if each >= first:
                self.remove(each)
        shutil.copy(self.path(before, "head.json"), self.folder / "head.json")

    def forge(self, first: int) -> None:
        """From that segment on, leaves and heads made to fit what the lines say now."""
        tree = Tree()
        for each in self.firsts:
            leaves = self.path(each, "leaves")
            if each >= first:
                lines = self.path(each, "jsonl").read_bytes().splitlines()
                leaves.write_bytes(b"".join(map(leaf_hash, lines)))
            hashes = leaves.read_bytes()
            for at in range(0, len(hashes), HASH_BYTES):
                tree.append(hashes[at : at + HASH_BYTES])
            if each >= first:
                head = self._signed(read_head(self.path(each, "head.json")), tree)
                self.path(each, "head.json").write_bytes(as_line(head))
                (self.folder / "head.json").write_bytes(as_line(head))

    def _signed(self, head: SignedHead, tree: Tree) -> SignedHead:
        signed = transcript.audit_head(head.tenant, tree.size, tree.root(), head.at)
        signature = self.key.sign(signed, labels.AUDIT_HEAD)
        return msgspec.structs.replace(head, size=tree.size, root=tree.root(), signature=signature)


def undetected(
    folder: Path, key: SigningKey, foreign: SigningKey, kept: Sequence[SignedHead], check: CheckHead
) -> list[str]:
    """The kinds that verification did not find, or called something else. key: the stolen issuing key; kept: heads as nodes
    hold them; foreign: a key that nobody certified."""
    unseen = []
    for name, codes, tamper in _kinds(foreign):
        copy = folder.with_name(f"{folder.name}-tampered")
        shutil.copytree(folder, copy)
        tamper(Export(copy, key))
        found = {finding.code for finding in verify(copy, list(kept), check).findings}
        if not found & codes:
            unseen.append(f"{name}: {', '.join(sorted(found)) or 'nothing found'}")
        shutil.rmtree(copy)
    return unseen


def _kinds(foreign: SigningKey) -> Iterator[tuple[str, set[str], Callable[[Export], None]]]:
    """(what is done, what it may be called, how)"""
    edits: dict[str, tuple[str, Edit]] = {
        "an event edited": ("edited", lambda part: part.__setitem__(1, part[1].replace(b'"kind":"', b'"kind":"no.'))),
        "an event removed": ("removed", lambda part: part.pop(1)),
        "an event inserted": ("inserted", lambda part: part.insert(1, part[0].replace(b'"id":"', b'"id":"f'))),
        "an event repeated": ("inserted", lambda part: part.append(part[0])),
        "events reordered": ("reordered", lambda part: part.reverse()),
        "the last events of a segment cut off": ("removed", lambda part: part.__delitem__(slice(1, None))),
    }
    for name, (code, edit) in edits.items():
        yield name, {code}, lambda export, edit=edit: export.edit(_middle(export), edit)  # type: ignore[misc]
    yield "a segment removed", {"removed"}, lambda export: export.remove(_middle(export))
    yield "the tail cut off", {"truncated"}, lambda export: export.cut(export.firsts[-1])
    yield "a history forked", {"rewritten"}, _forked
    yield "a shorter history signed with the stolen key", {"truncated"}, _shortened
    yield "heads signed by another key", {"bad-head"}, lambda export: _forked(Export(export.folder, foreign))


def _forked(export: Export) -> None:
    """Another history from the middle on, with leaves and signatures that fit."""
    export.edit(_middle(export), lambda part: part.__setitem__(1, part[1].replace(b'"kind":"', b'"kind":"no.')))
    export.forge(_middle(export))


def _shortened(export: Export) -> None:
    """The last event was never there."""
    export.edit(export.firsts[-1], lambda part: part.pop())
    export.forge(export.firsts[-1])


def _middle(export: Export) -> int:
    """The largest of the segments, so that there is something to change."""
    return max(export.firsts, key=lambda first: export.path(first, "jsonl").stat().st_size)
