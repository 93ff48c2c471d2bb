"""A node that was shown a log believes no other one, whoever signs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from issued import Authority
from kairos.api.enrollment import FabricInfo
from kairos.audit.event import Event
from kairos.audit.head import Consistency, SignedHead
from kairos.audit.merkle import Tree, consistency, leaf_hash
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.identity import transcript
from kairos_node.audit_watch import AuditWatch
from kairos_node.crypto import provider_named
from kairos_node.state import Identity, Join, Keys, NodeState

PROVIDER = provider_named("cryptography")
AUTHORITY = Authority(PROVIDER, KR1)


class Log:
    """What a fabric has and shows. It is the client too: `reachable` False is a fabric that gives no proof."""

    def __init__(self, size: int, rewritten: int = -1, authority: Authority = AUTHORITY) -> None:
        self.tree = Tree(leaf_hash(b"%d%s" % (at, b"!" * (at == rewritten))) for at in range(size))
        self.authority = authority
        self.reachable = True
        self.asked = 0

    def head(self, size: int, tenant: str = "acme") -> SignedHead:
        root, at = self.tree.root(size), self.authority.now
        key = PROVIDER.signing_key(KR1, self.authority.issuer_seed)
        signature = key.sign(transcript.audit_head(tenant, size, root, at), labels.AUDIT_HEAD)
        return SignedHead(tenant, size, root, at, signature, self.authority.trust.issuer.der)

    async def audit_consistency(self, first: int, second: int) -> Consistency:
        self.asked += 1
        if not self.reachable:
            raise ConnectionError("not now")
        return Consistency(first, second, consistency(first, second, self.tree.node))


class Node:
    def __init__(self, folder: Path) -> None:
        self.state = NodeState(folder)
        self.recorded: list[Event] = []
        credentials = AUTHORITY.issue("ep-a")
        pin = transcript.fingerprint(AUTHORITY.root)
        join = Join("http://fabric", "kairos.test", "KR1", "acme", "endpoint", "t", pin, b"", "laptop")
        self.state.begin(join, credentials.seed)
        self.state.keep_keys(Keys(credentials.seed, credentials.certificate))
        issuer = AUTHORITY.trust.issuer.der
        self.state.keep_fabric(FabricInfo("0", "KR1", "kairos.test", "http://relay", AUTHORITY.root, issuer, b""))
        self.identity: Identity = self.state.identity(PROVIDER, AUTHORITY.now)

    def shown(self, log: Log, head: SignedHead, first: int = 0) -> int:
        """How long the log is that the node now holds to. first: the push proves that the log goes on from that size."""
        proof = consistency(first, head.size, log.tree.node) if first else []
        watch = AuditWatch(self.state, self.identity, PROVIDER, log, self.recorded.append)  # type: ignore[arg-type]
        watch.shown(head, first, proof)
        asyncio.run(watch.catch_up())
        held = self.state.audit_head
        return held.size if held else 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_an_honest_log_is_followed(node: Node) -> None:
    log = Log(40)
    assert [node.shown(log, log.head(size)) for size in (3, 3, 8, 9, 40)] == [3, 3, 8, 9, 40]
    assert node.recorded == []
    assert node.state.audit_conflict is None


@pytest.mark.parametrize("size", [9, 10, 30])
def test_a_rewritten_history_is_caught_and_kept_as_evidence(node: Node, size: int) -> None:
    log, fork = Log(40), Log(40, rewritten=4)
    node.shown(log, log.head(10))
    assert node.shown(fork, fork.head(size)) == 10
    conflict = node.state.audit_conflict
    assert conflict is not None
    assert (conflict.size, conflict.root) == (size, fork.tree.root(size))
    [event] = node.recorded
    assert (event.kind, event.subject, event.source) == ("audit.inconsistent", str(size), node.identity.node)


def test_an_alarm_is_given_once_and_the_truth_still_followed(node: Node) -> None:
    log, fork = Log(40), Log(40, rewritten=4)
    node.shown(log, log.head(10))
    for size in (12, 13):
        assert node.shown(fork, fork.head(size)) == 10
    assert len(node.recorded) == 1
    assert node.shown(log, log.head(20)) == 20
    assert node.state.audit_conflict is not None


def test_a_cut_tail_is_caught(node: Node) -> None:
    log = Log(40)
    node.shown(log, log.head(10))
    assert node.shown(log, log.head(9)) == 10
    assert "9" in node.recorded[0].reason


def test_without_a_proof_nothing_is_believed_and_nobody_accused(node: Node) -> None:
    log = Log(40)
    node.shown(log, log.head(10))
    log.reachable = False
    assert node.shown(log, log.head(20)) == 10
    assert node.recorded == []
    log.reachable = True
    assert node.shown(log, log.head(21)) == 21


def test_only_the_fabrics_own_signature_counts(node: Node) -> None:
    log, stranger = Log(40), Log(40, authority=Authority(PROVIDER, KR1))
    for head in (
        stranger.head(5),
        log.head(5, "rival"),
        msgspec.structs.replace(log.head(5), at=1),
        msgspec.structs.replace(log.head(5), size=6),
        msgspec.structs.replace(log.head(5), issuer=b"not a certificate"),
    ):
        assert node.shown(log, head) == 0
    assert len(node.recorded) == 1


def test_a_renewed_issuer_signs_on(node: Node) -> None:
    log = Log(40)
    node.shown(log, log.head(10))
    log.authority = AUTHORITY.renewed()
    assert node.shown(log, log.head(30)) == 30


def test_a_node_that_follows_each_push_never_asks(node: Node) -> None:
    log = Log(40)
    node.shown(log, log.head(3))
    assert [node.shown(log, log.head(size), first) for first, size in ((3, 8), (8, 9), (9, 40))] == [8, 9, 40]
    assert log.asked == 0


def test_a_node_that_missed_a_push_asks_once_for_all(node: Node) -> None:
    log = Log(40)
    node.shown(log, log.head(3))
    watch = AuditWatch(node.state, node.identity, PROVIDER, log, node.recorded.append)  # type: ignore[arg-type]
    for first, size in ((8, 9), (9, 20), (20, 40)):
        watch.shown(log.head(size), first, consistency(first, size, log.tree.node))
    assert node.state.audit_head is not None
    assert node.state.audit_head.size == 3
    asyncio.run(watch.catch_up())
    assert (node.state.audit_head.size, log.asked) == (40, 1)


def test_a_fork_that_is_pushed_with_its_own_proof_is_caught(node: Node) -> None:
    log, fork = Log(40), Log(40, rewritten=4)
    node.shown(log, log.head(10))
    assert node.shown(fork, fork.head(30), 10) == 10
    assert node.state.audit_conflict is not None
    assert node.recorded[0].kind == "audit.inconsistent"
    assert fork.asked == 0
