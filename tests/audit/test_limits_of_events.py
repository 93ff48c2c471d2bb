"""Whatever nodes send, and whatever fails: each event that was taken is in the log once and in order, is found again, and none can be
forestalled or wedge another."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane import ControlPlane, Crash
from kairos.api.operations import Reindexed
from kairos.api.problem import ProblemError
from kairos.audit.event import Event, EventBatch
from kairos.audit.flow_record import LEDGER_WINDOW
from kairos_control.services import audit_log, audit_search
from kairos_control.services.audit_intake import BATCH_MAX, ENDPOINT, EVENT_COST, EVENT_MAX
from kairos_control.services.journal import EVENT_MAX as JOURNAL_MAX
from kairos_control.store.audit_index import AuditQuery
from kairos_control.store.bulk import VALUE_MAX, bulks
from kairos_control.store.fabric_events import FabricEventStore

AUDIT = "/v1/tenants/acme/audit"


def event(reason: str = "", **change: Any) -> Event:
    made = Event(os.urandom(16).hex(), 1.5, "acme", "ep-a", "test.event", reason=reason)
    return msgspec.structs.replace(made, **change)


def append(plane: ControlPlane, *events: Event) -> None:
    asyncio.run(plane.append("acme", events))


def listed(plane: ControlPlane, query: str = "kind=test.event") -> list[Event]:
    """By the route, all pages, oldest first."""
    found: list[Event] = []
    after = ""
    while True:
        page = plane.admin("GET", f"{AUDIT}?{query}&limit=500&after={after}")
        found += msgspec.convert(page["items"], list[Event])
        if not (after := page["next"]):
            return found[::-1]


# -- sizes are bytes -------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.text(max_size=40), max_size=3), max_size=60), st.integers(10, 400))
def test_a_bulk_is_counted_in_bytes(rows: list[list[str]], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kairos_control.store.bulk.VALUE_MAX", limit)
        made = list(bulks(rows))
    assert list(itertools.chain.from_iterable(map(msgspec.json.decode, made))) == rows
    for bulk in made:
        assert len(bulk.encode()) <= limit or len(msgspec.json.decode(bulk)) == 1


def test_events_of_emoji_stay_below_the_largest_value_of_a_database(plane: ControlPlane) -> None:
    made = list(bulks([[each.reason] for each in [event("🦊" * 4000)] * 400]))
    assert max(len(bulk.encode()) for bulk in made) <= VALUE_MAX


def test_events_full_of_quotes_reach_log_and_index(plane: ControlPlane) -> None:
    """Escaped once for the event and again for a message, twelve of them were too large for a queue, and held up all that followed."""
    gateway = plane.joined("gateway")
    events = [event('"' * 8000) for _ in range(12)]
    plane.node(gateway, "POST", "/audit", EventBatch(events))
    plane.node(gateway, "POST", "/audit", EventBatch([event("behind them")]))
    plane.seal()
    assert [each.reason for each in listed(plane)] == ['"' * 8000] * 12 + ["behind them"]


def test_an_event_that_is_too_large_is_refused_with_its_batch(plane: ControlPlane) -> None:
    gateway = plane.joined("gateway")
    for large in (event("x" * EVENT_MAX), event("🦊" * (EVENT_MAX // 4)), event('"' * (EVENT_MAX // 2))):
        with pytest.raises(ProblemError, match="at most 16384 bytes"):
            plane.node(gateway, "POST", "/audit", EventBatch([event("small"), large]))
    assert listed(plane) == []


def test_an_event_of_the_fabric_that_is_too_large_is_cut_with_a_mark(plane: ControlPlane) -> None:
    service = plane.service("acme")
    routes = [{"prefix": f"10.{number // 250}.{number % 250}.0/24", "via": "10.7.0.1"} for number in range(1500)]
    service.journal.record("vni.changed", actor="r" * 3000, subject="s" * 200_000, routes=routes, name="office")
    asyncio.run(service.journal.flush())
    [cut] = plane.audited("vni.changed")
    assert len(msgspec.json.encode(cut)) <= JOURNAL_MAX
    assert cut["detail"] == {"name": "office", "cut": ["routes", "actor", "subject"]}
    assert cut["actor"] == "r" * 1024


def test_an_endpoint_has_a_budget_of_bytes(plane: ControlPlane) -> None:
    plane.joined("gateway")
    device = plane.joined()
    batch = EventBatch([event("x" * 15_000) for _ in range(16)])
    sent = 0
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "too-many-requests"):
        for _ in range(100):
            plane.node(device, "POST", "/audit", batch)
            sent += len(msgspec.json.encode(batch))
    assert ENDPOINT.burst - 400_000 < sent <= ENDPOINT.burst
    day = ENDPOINT.burst + ENDPOINT.per_second * 86_400
    assert day < 400 << 20


def test_small_events_cost_what_their_rows_cost(plane: ControlPlane) -> None:
    """An event of a hundred bytes has a row in the index, a key and a leaf in the object that are larger than it is."""
    plane.joined("gateway")
    device, taken = plane.joined(), 0
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "too-many-requests"):
        for _ in range(100):
            plane.node(device, "POST", "/audit", EventBatch([event() for _ in range(BATCH_MAX)]))
            taken += BATCH_MAX
    assert taken == ENDPOINT.burst // EVENT_COST // BATCH_MAX * BATCH_MAX


# -- once each, in order, under its source's name --------------------------------------------------------------------------------------


def test_no_source_takes_the_id_of_anothers_event(plane: ControlPlane) -> None:
    """The fabric's own ids can be computed by anyone, and a batch may come before them."""
    one, two = (event("first", id="a" * 32, source=source) for source in ("ep-a", "fabric"))
    append(plane, one)
    append(plane, two, msgspec.structs.replace(two, reason="second"))
    plane.seal()
    assert [(each.source, each.reason) for each in listed(plane)] == [("ep-a", "first"), ("fabric", "first")]
    with pytest.raises(ProblemError, match="several sources"):
        plane.admin("GET", f"{AUDIT}/proof?event={'a' * 32}")
    assert plane.admin("GET", f"{AUDIT}/proof?event={'a' * 32}&source=fabric")["position"] == 3


def test_an_event_from_before_sources_were_recorded_is_known_by_its_id(plane: ControlPlane) -> None:
    local = plane.service("acme").platform.local
    append(plane, event(id="a" * 32))
    local.write("UPDATE log_events SET id = ? WHERE position = 2", "a" * 32)
    append(plane, event("sent again", id="a" * 32), event("the fabric's", id="a" * 32, source="fabric"))
    assert [each.reason for each in listed(plane)] == ["", "the fabric's"]


def test_the_outbox_of_an_earlier_release_is_taken_over(plane: ControlPlane) -> None:
    local = plane.service("acme").platform.local
    waiting = [event(f"waiting {number}") for number in range(1200)]
    append(plane, waiting[3])
    for each in waiting:
        line = msgspec.json.encode(each).decode()
        local.write("INSERT INTO outbox (id, event, sent_at) VALUES (?, ?, 1.0)", each.id, line)
    plane.restart()
    plane.seal()
    assert [each.reason for each in listed(plane)] == ["waiting 3", *(f"waiting {n}" for n in range(1200) if n != 3)]
    assert local.rows("SELECT * FROM outbox") == []


_TEXT = st.text(max_size=60) | st.sampled_from(['"' * 2000, "🦊" * 500, "\\" * 900, "\0", "\n\u2028", "</script>"])
_EVENTS = st.builds(
    Event,
    id=st.sampled_from([f"{number:032x}" for number in range(6)]),
    at=st.floats(0, 4e9),
    tenant=st.just("acme"),
    source=st.sampled_from(["ep-a", "gw-b", "fabric"]),
    kind=st.sampled_from(["test.event", "flow.denied", LEDGER_WINDOW]),
    actor=_TEXT,
    subject=_TEXT,
    reason=_TEXT,
    detail=st.dictionaries(st.sampled_from(["vni", "x"]), st.integers(-5, 1 << 62) | _TEXT, max_size=2),
)
_STEPS = st.sampled_from(["nothing", "seal", "database away", "blobs away", "dies", "restart", "sweep"])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.lists(_EVENTS, max_size=5), _STEPS, st.integers(1, 4)), max_size=8))
def test_any_batches_are_in_log_and_index_once_and_in_order(steps: list[tuple[list[Event], str, int]]) -> None:
    plane = ControlPlane()
    plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit_log, "SEGMENT_EVENTS", 4)
            expected: dict[tuple[str, str], Event] = {}
            for events, step, number in steps:
                append(plane, *events)
                for each in events:
                    expected.setdefault((each.source, each.id), each)
                _disturb(plane, step, number)
            plane.seal()
            assert [each for each in plane.events() if each.kind != "tenant.created"] == list(expected.values())
            searched = [each for each in expected.values() if each.kind == "flow.denied"]
            assert listed(plane, "kind=flow.denied") == searched
            for source in ("ep-a", "gw-b"):
                mine = [each for each in expected.values() if source in (each.source, each.actor, each.subject)]
                assert listed(plane, f"device={source}") == mine
    finally:
        plane.close()


def _disturb(plane: ControlPlane, step: str, number: int) -> None:
    if step == "dies":
        plane.store.dies_in = number
        try:
            plane.seal()
        except Crash:
            plane.restart()
        plane.store.dies_in = 0
    elif step == "restart":
        plane.restart()
    elif step in ("seal", "sweep"):
        (plane.seal if step == "seal" else plane.sweep)()
    elif step != "nothing":
        store = plane.store if step == "database away" else plane.blobs
        store.reachable = False
        asyncio.run(plane.service("acme").lifecycle.alarm())
        store.reachable = True


@pytest.mark.parametrize("statement", range(1, 30))
def test_a_kill_between_any_two_statements_loses_no_event(plane: ControlPlane, statement: int) -> None:
    """Of the object's SQLite: each event is there whole, or its sender was not answered and sends it again."""
    events = [event(f"{number}") for number in range(5)]
    local = plane.local("acme")
    local.dies_in = statement
    try:
        append(plane, *events[:3])
        plane.seal()
        append(plane, *events[3:])
        plane.seal()
    except Crash:
        plane.restart()
    local.dies_in = 0
    append(plane, *events)
    plane.seal()
    assert [each.reason for each in listed(plane)] == [f"{number}" for number in range(5)]


# -- an outage delays, and loses nothing -----------------------------------------------------------------------------------------------


def test_a_database_that_is_away_delays_neither_heads_nor_answers(plane: ControlPlane) -> None:
    service = plane.service("acme")
    append(plane, event("one"))
    plane.store.reachable = False
    asyncio.run(service.lifecycle.alarm())
    assert service.audit_log.sealed == 3
    assert plane.alarms["acme"] == plane.now + 60
    append(plane, event("two"))
    assert (service.audit_log.indexed, service.audit_log.waiting) == (0, 4)
    plane.store.reachable = True
    assert [each.reason for each in listed(plane)] == ["one", "two"]
    asyncio.run(service.lifecycle.alarm())
    assert service.audit_log.waiting == 0
    assert [each.reason for each in listed(plane)] == ["one", "two"]


def test_storage_that_is_away_keeps_the_text_in_the_object(plane: ControlPlane) -> None:
    append(plane, event("one"))
    plane.blobs.reachable = False
    asyncio.run(plane.service("acme").lifecycle.alarm())
    assert [each.reason for each in listed(plane)] == ["one"]
    with pytest.raises(ProblemError, match="nothing is sealed yet"):
        plane.admin("GET", f"{AUDIT}/head")
    plane.blobs.reachable = True
    plane.seal()
    assert [each.reason for each in listed(plane)] == ["one"]


def test_an_append_costs_what_it_adds(plane: ControlPlane) -> None:
    """It read all events that waited, each time."""
    plane.blobs.reachable = False
    append(plane, *(event() for _ in range(500)))
    local = plane.service("acme").platform.local
    read: list[int] = []
    rows = local.rows

    def counting(sql: str, *values: Any) -> list[Any]:
        found = rows(sql, *values)
        read.append(len(found))
        return found

    local.rows = counting  # type: ignore[method-assign]
    append(plane, event())
    assert sum(read) < 30


# -- the index -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """Forty segments of five events, each fifth a window of flows."""
    monkeypatch.setattr(audit_log, "SEGMENT_EVENTS", 5)
    kinds = [LEDGER_WINDOW, *["test.event"] * 4]
    append(plane, *(event(f"{number}", kind=kinds[number % 5], at=float(number)) for number in range(200)))
    plane.seal()
    return plane


def test_windows_of_flows_have_no_row_and_are_found(many: ControlPlane) -> None:
    rows = many.store.database.execute("SELECT count(*) FROM audit_index WHERE kind LIKE 'ledger%'").fetchone()
    assert rows[0] == 0
    assert [int(each.reason) for each in listed(many, f"kind={LEDGER_WINDOW}")] == list(range(0, 200, 5))
    assert [int(each.reason) for each in listed(many, "since=50&until=60&device=ep-a")] == list(range(50, 60))


def test_no_text_of_an_event_is_in_the_database(many: ControlPlane) -> None:
    secret = "a text that only R2 has"
    append(many, event(secret), event(kind="test.event", detail={"x": secret}))
    many.seal()
    assert secret not in "\n".join(many.store.database.iterdump())
    assert len(listed(many, "text=a text that only".replace(" ", "%20"))) == 2


def test_the_index_is_made_again_from_the_segments(many: ControlPlane) -> None:
    before = many.store.database.execute("SELECT * FROM audit_index ORDER BY position").fetchall()
    with many.store.database:
        many.store.database.execute("DELETE FROM audit_index")
        many.store.database.execute("UPDATE audit_segments SET in_index = 0")
    assert [int(each.reason) for each in listed(many)] == [n for n in range(200) if n % 5]  # out of the segments
    step = many.admin("POST", f"{AUDIT}/reindex", {}, Reindexed)
    assert (step.segments, step.next > 0) == (4, True)
    assert [int(each.reason) for each in listed(many)] == [n for n in range(200) if n % 5]  # half and half
    while step.next:
        step = many.admin("POST", f"{AUDIT}/reindex?before={step.next}", {}, Reindexed)
    after = many.store.database.execute("SELECT * FROM audit_index ORDER BY position").fetchall()
    assert [tuple(row) for row in after][: len(before)] == [tuple(row) for row in before]


def test_housekeeping_indexes_what_an_earlier_release_sealed(many: ControlPlane) -> None:
    with many.store.database:
        many.store.database.execute("DELETE FROM audit_index")
        many.store.database.execute(
            "UPDATE audit_segments SET in_index = 0, oldest = NULL, newest = NULL, windows = NULL"
        )
    for _ in range(15):
        assert many.sweep().status == 200
    [missing] = many.store.database.execute("SELECT count(*) FROM audit_segments WHERE in_index = 0").fetchone()
    assert missing == 0


def test_the_index_is_kept_for_ninety_days(many: ControlPlane) -> None:
    many.now += 91 * 86_400
    append(many, event("young"))
    for _ in range(15):
        many.sweep()
    [rows] = many.store.database.execute("SELECT count(*) FROM audit_index").fetchone()
    assert rows <= 2
    assert [each.reason for each in listed(many)][-1] == "young"
    assert len(listed(many)) == 161


def test_a_page_reads_a_bounded_number_of_bytes(many: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = many.blobs.get

    async def counting(key: str) -> bytes | None:
        asked.append(key)
        return await get(key)

    many.blobs.get = counting  # type: ignore[method-assign]
    monkeypatch.setattr(audit_search, "_SCANNED_BYTES", 1000)
    page = many.admin("GET", f"{AUDIT}?text=nothing-has-this")
    assert (page["items"], bool(page["next"]), len(asked)) == ([], True, 3)


def test_a_sweep_and_a_search_read_no_more_of_a_longer_log(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps of SQLite's machine: old segments, and what other tenants did, cost nothing."""
    monkeypatch.setattr(audit_log, "SEGMENT_EVENTS", 5)
    steps: list[int] = []

    def costs() -> tuple[int, int]:
        found = []
        for work in (plane.sweep, lambda: plane.admin("GET", f"{AUDIT}?kind=test.event&limit=20")):
            steps.clear()
            plane.store.database.set_progress_handler(lambda: steps.append(1), 10)
            work()
            plane.store.database.set_progress_handler(None, 0)
            found.append(len(steps))
        return found[0], found[1]

    def grow(count: int) -> None:
        append(plane, *(event(kind="test.event" if number % 2 else LEDGER_WINDOW) for number in range(count)))
        rows = [FabricEventStore.adding("rival", event()) for _ in range(count)]
        asyncio.run(plane.store.write(rows))
        plane.seal()

    plane.admin("PUT", f"{AUDIT}/retention", {"days": 7})
    grow(200)
    plane.sweep()
    before = costs()
    grow(1800)
    plane.sweep()
    after = costs()
    assert all(now <= 1.25 * then + 5 for then, now in zip(before, after, strict=True)), (before, after)


def test_only_what_was_sealed_long_ago_is_retired(plane: ControlPlane) -> None:
    """By the log's own time: what a node claims of an event's time neither keeps it nor deletes it early."""
    append(plane, event("from the future", at=4e9))
    plane.seal()
    plane.admin("PUT", f"{AUDIT}/retention", {"days": 7})
    plane.now += 8 * 86_400
    append(plane, event("from the past", at=1.0))
    plane.seal()
    plane.sweep()
    assert [each.reason for each in listed(plane)] == ["from the past"]
    [rows] = plane.store.database.execute("SELECT count(*) FROM audit_index WHERE at > 3e9").fetchone()
    assert rows == 0


# -- a tenant that is made again -------------------------------------------------------------------------------------------------------


def test_a_tenant_made_again_goes_on_in_the_log_of_its_name(plane: ControlPlane) -> None:
    """Deleting a tenant erases no evidence, and heads that nodes hold stay true."""
    append(plane, event("before"))
    plane.seal()
    held = plane.service("acme").audit_log.current()
    plane.admin("DELETE", "/v1/tenants/acme")
    plane.restart()
    plane.now += 60
    plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
    plane.seal()
    kinds = [each.kind for each in plane.events()]
    assert kinds == ["tenant.created", "vni.created", "test.event", "tenant.deleted", "tenant.created"]
    shown = plane.admin("GET", f"{AUDIT}/consistency?first={held.size}&second={len(kinds)}")
    assert shown["first"] == held.size
    assert asyncio.run(plane.service("acme").audit_search.find(AuditQuery(), 1 << 40, 9)).next == 0
