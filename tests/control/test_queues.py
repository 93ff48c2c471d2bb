"""What comes out of the queues: poison is put aside, an outage gives messages back, and nobody's failure holds up another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from control_plane import ADMIN_TOKEN, ControlPlane
from kairos.api.admin import Page
from kairos.api.operations import DeadLetter
from kairos.api.telemetry import Measured, Sample
from kairos.audit.event import Event
from kairos_control.fabric import FabricServices
from kairos_control.http.call import Call
from kairos_control.queues import EVENTS, SWEEPS, TELEMETRY, Queues
from kairos_control.store import dead_letters

SAMPLE = Sample(1, 2, 1000.0, 2000.0, {"auth": 3}, 7, 0.2, 1, 12.5, 4, "0.1.0")


@dataclass
class Message:
    body: object
    attempts: int = 1
    said: list[object] = field(default_factory=list)

    def ack(self) -> None:
        self.said.append("ack")

    def retry(self, delay_s: int) -> None:
        self.said.append(delay_s)


def text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def consume(plane: ControlPlane, queue: str, *messages: Message, failing: str = "") -> list[str]:
    """Returns the tenants whose objects were swept. failing: the one whose object fails."""
    swept: list[str] = []

    async def sweep(tenant: str) -> bool:
        swept.append(tenant)
        if tenant == failing:
            raise RuntimeError("its object is away")
        return True

    asyncio.run(Queues(FabricServices(plane.platform, plane.limits), sweep).consume(queue, messages))
    return swept


def letters(plane: ControlPlane) -> list[DeadLetter]:
    return msgspec.convert(plane.admin("GET", "/v1/dead-letters", None, Page[Any]).items, list[DeadLetter])


POISON = ["{", "[]", '{"tenant": 7}', "\udcff", 7, None, b"bytes"]


@pytest.mark.parametrize("queue", [TELEMETRY, SWEEPS, EVENTS])
def test_poison_is_put_aside_and_holds_up_nobody(plane: ControlPlane, queue: str) -> None:
    good = {
        TELEMETRY: text(Measured("acme", "ep-a", int(plane.now), SAMPLE)),
        SWEEPS: text({"tenant": "acme"}),
        EVENTS: text(Event("a" * 32, 1.0, "acme", "ep-a", "test.event")),
    }
    messages = [Message(body) for body in (*POISON, good[queue])]
    consume(plane, queue, *messages)
    assert [message.said for message in messages] == [["ack"]] * len(messages)
    kept = letters(plane)
    assert len(kept) == len(POISON)
    assert {letter.queue for letter in kept} == {queue}
    assert all(letter.reason for letter in kept)


def test_an_outage_gives_messages_back_later_each_time(plane: ControlPlane) -> None:
    messages = [Message(text(Measured("acme", "ep-a", int(plane.now), SAMPLE)), attempts) for attempts in (1, 2, 3, 40)]
    plane.store.reachable = False
    consume(plane, TELEMETRY, *messages)
    assert [message.said for message in messages] == [[30], [60], [120], [3600]]
    plane.store.reachable = True
    assert letters(plane) == []


def test_a_tenant_that_fails_holds_up_no_other(plane: ControlPlane) -> None:
    names = ["acme", "broken", "rival"]
    messages = [Message(text({"tenant": name})) for name in names]
    assert consume(plane, SWEEPS, *messages, failing="broken") == names
    assert [message.said for message in messages] == [["ack"], [30], ["ack"]]


def test_what_a_queue_gives_up_is_kept_and_counted(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "KEPT", 5)
    consume(plane, "kairos-sweeps-dead", *(Message(f"{number}" * 9000) for number in range(8)))
    kept = letters(plane)
    assert [(letter.body[0], len(letter.body)) for letter in kept] == [
        (str(number), 4096) for number in (7, 6, 5, 4, 3)
    ]
    metrics = plane.send(Call("GET", "/v1/metrics", {"authorization": f"Bearer {ADMIN_TOKEN}"})).body.decode()
    assert 'kairos_fabric_dead_letters{queue="sweeps"} 5' in metrics.splitlines()


def test_events_that_an_earlier_release_queued_reach_their_logs(plane: ControlPlane) -> None:
    event = Event("a" * 32, 1.0, "acme", "ep-a", "test.event")
    for _ in range(2):
        consume(plane, EVENTS, Message(text(event)))
    assert [each for each in plane.events() if each.kind == "test.event"] == [event]


def test_the_fabric_says_what_an_operator_has_to_watch(plane: ControlPlane) -> None:
    plane.sweep()
    lines = (
        plane.send(Call("GET", "/v1/metrics", {"authorization": f"Bearer {ADMIN_TOKEN}"})).body.decode().splitlines()
    )
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["kairos_fabric_issuer_end_seconds"]) > plane.now
    assert int(values['kairos_fabric_database_bytes{database="DB"}']) > 10_000
    assert values['kairos_fabric_queue_waiting{queue="sweeps"}'] == "0"
    assert values['kairos_fabric_audit_waiting_events{tenant="acme"}'] == "0"
    for number, line in enumerate(lines):
        if line.startswith("# HELP"):
            assert lines[number + 1].split()[:3] == ["#", "TYPE", line.split()[2]]
