"""The audit log inside workerd: through the real queue, Durable Object, R2 and D1, over the death of the Worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from fabric_host import TENANT, FabricHost, Gatekeeper, client_of, default_provider
from kairos.api.problem import ProblemError
from kairos.api.push import AuditHead, Welcome
from kairos.audit.event import Event
from kairos.audit.head import SealedSegment, SignedHead
from kairos.audit.verification import Report, examine
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_node.audit_watch import AuditWatch
from kairos_node.certificates import check_audit_head
from kairos_node.state import Identity, NodeState
from overlay import wait_for

SENT = [Event(f"{number:032x}", 1_800_000_000.0 + number, "", "", "test.event") for number in range(1, 301)]


def head(host: FabricHost) -> SignedHead | None:
    try:
        return msgspec.json.decode(msgspec.json.encode(host.admin("GET", f"/{TENANT}/audit/head")), type=SignedHead)
    except ProblemError:
        return None


def export(host: FabricHost, size: int) -> list[SealedSegment]:
    segments: list[SealedSegment] = []
    first = 0
    while first < size:
        answer = host.admin("GET", f"/{TENANT}/audit/segments/{first}")
        segments.append(msgspec.json.decode(msgspec.json.encode(answer), type=SealedSegment))
        first = segments[-1].head.size
    return segments


def examined(host: FabricHost, newest: SignedHead) -> Report:
    root, provider = parse_certificate_untrusted(host.operator.root_certificate), default_provider()
    return examine(export(host, newest.size), newest, (), lambda each: check_audit_head(provider, root, each))


def lines(host: FabricHost) -> list[Event]:
    """All test events that are sealed, in the order of the log."""
    newest = head(host)
    if newest is None:
        return []
    sealed = b"".join(segment.lines for segment in export(host, newest.size)).splitlines()
    events = [msgspec.json.decode(line, type=Event) for line in sealed]
    return [event for event in events if event.kind == "test.event"]


def heads(keeper: Gatekeeper) -> list[SignedHead]:
    """All that the node was pushed."""
    shown = [push.head for push in keeper.pushes if isinstance(push, AuditHead)]
    welcomed = [push.audit_head for push in keeper.pushes if isinstance(push, Welcome)]
    return shown + [each for each in welcomed if each is not None]


def longest(keeper: Gatekeeper) -> int:
    return max((each.size for each in heads(keeper)), default=0)


async def send(endpoint: Identity, events: list[Event]) -> None:
    async with client_of(endpoint) as client:
        await client.send_events(events)


@pytest.mark.timeout(180)
def test_every_event_is_in_the_log_once_whatever_dies(host: FabricHost, gateway: Identity, endpoint: Identity) -> None:
    """Sent twice, the Worker killed between and after; nobody asks for a seal but the object's own alarm."""
    asyncio.run(send(endpoint, SENT[:200]))
    host.fabric.kill("control")
    host.fabric.restart("control")
    asyncio.run(send(endpoint, SENT[:200]))
    asyncio.run(send(endpoint, SENT[200:]))
    with Gatekeeper(gateway, lambda _: ("allow", "")) as keeper:
        size = 0
        while len(found := lines(host)) < len(SENT):
            keeper.await_push(lambda _: longest(keeper) > size, 90)  # noqa: B023  (called before size changes)
            size = longest(keeper)
    assert sorted(event.id for event in found) == [event.id for event in SENT]
    assert {event.source for event in found} == {endpoint.node}
    host.sweep(TENANT)
    searched = host.admin("GET", f"/{TENANT}/audit?kind=test.event&limit=1000")["items"]  # index in D1, ranges of R2
    assert [each["id"] for each in searched] == [event.id for event in found[::-1]]
    newest = head(host)
    assert newest is not None
    report = examined(host, newest)
    assert report.findings == []
    assert report.proven == newest.size


def test_a_node_follows_the_log_by_what_it_is_pushed(
    host: FabricHost, gateway: Identity, endpoint: Identity, tmp_path: Path
) -> None:
    """The welcome has a head, the next sealing pushes another, and the fabric's proof leads from one to the other."""
    state = NodeState(tmp_path)
    state.create()

    async def shown(newest: SignedHead) -> int:
        async with client_of(gateway) as client:
            watch = AuditWatch(state, gateway, default_provider(), client, _no_alarm)
            watch.shown(newest)
            await watch.catch_up()
        assert state.audit_head == newest
        return newest.size

    with Gatekeeper(gateway, lambda _: ("allow", "")) as keeper:
        [welcomed] = heads(keeper)
        before = asyncio.run(shown(welcomed))
        asyncio.run(send(endpoint, [Event("e" * 32, 1.0, "", "", "another.event")]))
        wait_for("the event", lambda: host.admin("GET", f"/{TENANT}/audit?kind=another")["items"])
        host.sweep(TENANT)
        keeper.await_push(lambda push: isinstance(push, AuditHead) and push.head.size > before)
        newest = max(heads(keeper), key=lambda each: each.size)
        assert asyncio.run(shown(newest)) > before


def _no_alarm(event: Event) -> None:
    raise AssertionError(f"an honest log was accused: {event.reason}")
