"""The tamper suite: whoever edits, removes, inserts, reorders, cuts, forks or signs anew is found out, and so is where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from kairos.audit.event import Event
from kairos.audit.head import SealedSegment, SignedHead, verify_successor
from kairos.audit.merkle import Tree, consistency, leaf_hash
from kairos.audit.verification import Report, examine
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.errors import Refused
from kairos.identity import transcript
from toy_provider import ToyProvider

PROVIDER = ToyProvider()
KEY = PROVIDER.signing_key(KR1, b"the issuing key")
SIZES = (5, 8, 1, 7)  # events a segment


def check(head: SignedHead) -> None:
    signed = transcript.audit_head(head.tenant, head.size, head.root, head.at)
    if not PROVIDER.verify(KR1, KEY.public_key, signed, head.signature, labels.AUDIT_HEAD):
        raise Refused("bad-signature", "the signature is wrong")


def head_of(tree: Tree, size: int, tenant: str = "acme") -> SignedHead:
    root, at = tree.root(size), 1_800_000_000 + size
    signature = KEY.sign(transcript.audit_head(tenant, size, root, at), labels.AUDIT_HEAD)
    return SignedHead(tenant, size, root, at, signature, b"")


def event(number: int, reason: str = "") -> bytes:
    return msgspec.json.encode(Event(f"{number:032x}", 1.5, "acme", "fabric", "test.event", reason=reason))


class Log:
    """A whole log and the export of it."""

    def __init__(self, lines: Sequence[bytes], sizes: Sequence[int] = SIZES) -> None:
        self.tree = Tree(leaf_hash(line) for line in lines)
        self.segments: list[SealedSegment] = []
        first = 0
        for count in sizes:
            part = lines[first : first + count]
            text, leaves = b"".join(line + b"\n" for line in part), b"".join(map(leaf_hash, part))
            self.segments.append(SealedSegment(first, text, leaves, head_of(self.tree, first + count)))
            first += count

    def head(self, size: int) -> SignedHead:
        return head_of(self.tree, size)

    @property
    def last(self) -> SignedHead:
        return self.segments[-1].head

    def lines(self, number: int) -> list[bytes]:
        return self.segments[number].lines.splitlines()

    def rewrite(self, number: int, lines: Sequence[bytes]) -> None:
        """Other lines in a segment's file; its leaves and its head stay."""
        text = b"".join(line + b"\n" for line in lines)
        self.segments[number] = msgspec.structs.replace(self.segments[number], lines=text)

    def examine(self, *kept: SignedHead) -> Report:
        return examine(self.segments, self.last, kept, check)


@pytest.fixture
def log() -> Log:
    return Log([event(number) for number in range(sum(SIZES))])


def places(report: Report) -> list[tuple[str, int]]:
    return [(finding.code, finding.at) for finding in report.findings]


def test_a_whole_export_is_proven(log: Log) -> None:
    report = log.examine(log.head(3), log.head(21))
    assert report.findings == []
    assert (report.tenant, report.events, report.proven, report.heads) == ("acme", 21, 21, 4)
    assert [head.size for head in report.agreeing] == [3, 21]


def test_an_edited_event(log: Log) -> None:
    lines = log.lines(1)
    lines[2] = lines[2].replace(b"test.event", b"test.other")
    log.rewrite(1, lines)
    report = log.examine()
    assert places(report) == [("edited", 7)]
    assert report.proven == 5


def test_an_edited_event_with_its_leaf(log: Log) -> None:
    """Its leaf can be made to fit, the signed root cannot."""
    lines = log.lines(1)
    lines[2] = lines[2].replace(b"test.event", b"test.other")
    log.rewrite(1, lines)
    log.segments[1] = msgspec.structs.replace(log.segments[1], leaves=b"".join(map(leaf_hash, lines)))
    report = log.examine()
    assert places(report)[0] == ("wrong-root", 5)
    assert report.proven == 5


@pytest.mark.parametrize("position", [5, 9, 12])
def test_a_removed_event(log: Log, position: int) -> None:
    lines = log.lines(1)
    del lines[position - 5]
    log.rewrite(1, lines)
    assert places(log.examine()) == [("removed", position)]


def test_an_inserted_event(log: Log) -> None:
    lines = log.lines(1)
    lines.insert(3, event(99))
    log.rewrite(1, lines)
    report = log.examine()
    assert places(report) == [("inserted", 8)]
    assert "line 4" in report.findings[0].text


def test_an_event_that_stands_twice(log: Log) -> None:
    lines = log.lines(1)
    lines.append(lines[0])
    log.rewrite(1, lines)
    assert ("inserted", 5) in places(log.examine())


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 7), (3, 5)])
def test_reordered_events(log: Log, one: int, other: int) -> None:
    lines = log.lines(1)
    lines[one], lines[other] = lines[other], lines[one]
    log.rewrite(1, lines)
    found = places(log.examine())
    assert found
    assert {code for code, _ in found} == {"reordered"}
    assert {at - 5 for _, at in found} & {one, other}


def test_a_removed_segment(log: Log) -> None:
    del log.segments[1]
    report = log.examine()
    assert places(report)[0] == ("removed", 5)
    assert "5 to 12" in report.findings[0].text


def test_a_cut_tail_shows_against_the_newest_head_or_a_kept_one(log: Log) -> None:
    newest = log.last
    cut = log.segments[:-1]
    assert places(examine(cut, newest, (), check)) == [("truncated", 14)]
    assert places(examine(cut, cut[-1].head, (), check)) == []  # an older, honest export looks the same
    assert places(examine(cut, cut[-1].head, [newest], check)) == [("truncated", 14)]


def test_a_replaced_head(log: Log) -> None:
    """Of another size, or with another root, by someone without the key."""
    for change in ({"root": bytes(32)}, {"at": 1}, {"size": 12}, {"tenant": "rival"}):
        forged = msgspec.structs.replace(log.segments[1].head, **change)
        segments = [*log.segments]
        segments[1] = msgspec.structs.replace(segments[1], head=forged)
        found = examine(segments, log.last, (), check).findings
        assert found[0].code == "bad-head"
        assert "segment from 5 on" in found[0].text


def test_a_head_of_another_tenant(log: Log) -> None:
    """Rightly signed, for someone else's log."""
    foreign = head_of(log.tree, 21, "rival")
    assert ("bad-head", 21) in places(examine(log.segments, log.last, [foreign], check))


def rewritten(position: int) -> Log:
    """A history that the holder of the signing key made anew, whole and consistent in itself."""
    lines = [event(number) for number in range(21)]
    lines[position] = event(position, reason="never happened")
    return Log(lines)


@pytest.mark.parametrize("position", [0, 9, 20])
def test_a_forked_history_signed_by_a_stolen_key(log: Log, position: int) -> None:
    """Nothing in the export is wrong: only heads that nodes kept tell, and between which events."""
    fork = rewritten(position)
    assert fork.examine().findings == []
    report = fork.examine(log.head(4), log.head(12), log.head(21))
    kept = next(size for size in (4, 12, 21) if size > position)
    agreeing = max((size for size in (4, 12) if size <= position), default=0)
    assert places(report)[0] == ("rewritten", agreeing)
    assert f"between events {agreeing} and {kept - 1}" in report.findings[0].text


@pytest.mark.parametrize("position", [0, 9])
def test_a_node_believes_no_fork(log: Log, position: int) -> None:
    fork, held = rewritten(position), log.head(10)
    for size in (10, 21):
        with pytest.raises(Refused) as refusal:
            verify_successor(held, fork.head(size), consistency(10, size, fork.tree.node))
        assert refusal.value.code == "audit-forked"
    verify_successor(held, log.head(21), consistency(10, 21, log.tree.node))


def test_a_node_believes_no_shorter_log_and_no_others(log: Log) -> None:
    with pytest.raises(Refused, match="had 10"):
        verify_successor(log.head(10), log.head(9), [])
    with pytest.raises(Refused, match="rival"):
        verify_successor(log.head(10), head_of(log.tree, 21, "rival"), [])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"not JSON", "not-an-event"),
        (event(99).replace(b"acme", b"rival"), "foreign"),
        (event(3, reason="again"), "twice"),
    ],
)
def test_what_the_log_should_never_have_taken(line: bytes, code: str) -> None:
    lines = [*(event(number) for number in range(20)), line]
    assert places(Log(lines).examine()) == [(code, 20)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda each: msgspec.structs.replace(each, leaves=each.leaves[:-1]),
        lambda each: msgspec.structs.replace(each, leaves=b""),
        lambda each: msgspec.structs.replace(each, leaves=bytes(len(each.leaves))),
        lambda each: msgspec.structs.replace(each, lines=each.lines[:-20]),
        lambda each: msgspec.structs.replace(each, lines=b""),
    ],
)
def test_a_damaged_segment(log: Log, damage: Callable[[SealedSegment], SealedSegment]) -> None:
    log.segments[1] = damage(log.segments[1])
    report = log.examine()
    assert report.findings
    assert report.proven == 5
