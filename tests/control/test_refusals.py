"""Refused calls are on record, and cost a bounded amount of it."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from control_plane import ADMIN_TOKEN, ControlPlane, Crash
from kairos.api.admin import Page, Tenant
from kairos.api.operations import FabricEventRecord
from kairos_control.http.call import Call
from kairos_control.ports import ConstraintError
from kairos_control.services.refusals import BURST, SOURCE_BURST, TOGETHER, WINDOW_S, prefix_of
from kairos_control.store.tenants import TenantStore

RESPONSE = "/v1/tenants/acme/enrollments/x/response"


def refuse(plane: ControlPlane, address: str, path: str = RESPONSE, device: str = "") -> None:
    headers = {"cf-connecting-ip": address, **({"kairos-device": device} if device else {})}
    reply = plane.send(Call("POST", path, headers, b"{}"))
    assert reply.status >= 400


def recorded(plane: ControlPlane, kind: str = "enrollment.refused") -> list[str]:
    return [event.actor for event in plane.events() if event.kind == kind]


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("not an address", "not an address"),
    ],
)
def test_a_source_is_what_one_caller_can_have(address: str, prefix: str) -> None:
    assert prefix_of(address) == prefix


def test_one_that_is_refused_all_the_time_hides_no_other(plane: ControlPlane) -> None:
    for number in range(300):
        refuse(plane, f"2001:db8::{number:x}")  # one /64
    assert len(recorded(plane)) == SOURCE_BURST
    refuse(plane, "192.0.2.1", device="ep-victim")
    assert recorded(plane)[-1] == "ep-victim"


def test_kinds_have_shares_of_their_own(plane: ControlPlane) -> None:
    for _ in range(50):
        refuse(plane, "192.0.2.1")
    refuse(plane, "192.0.2.1", "/v1/tenants/acme/audit")
    assert len(recorded(plane, "request.refused")) == 1


def test_what_is_not_recorded_one_by_one_is_counted(plane: ControlPlane) -> None:
    for _ in range(50):
        refuse(plane, "192.0.2.1")
    at_once = len(recorded(plane))
    plane.now += WINDOW_S
    plane.sweep()
    [flood] = [event for event in plane.events() if event.kind == "request.flood"]
    [counted] = flood.detail["reasons"].values()
    assert flood.detail["sources"] == {"192.0.2.1": counted}
    assert 0 < at_once < len(recorded(plane))
    assert len(recorded(plane)) + counted == 50


def test_unauthenticated_callers_store_less_than_ten_megabytes_a_day(plane: ControlPlane) -> None:
    """The worst there is: another source for each call, texts as long as they may be, more calls than are recorded."""

    def stored() -> int:
        local = plane.local("acme").database
        pages = [database.execute("PRAGMA page_count").fetchone()[0] for database in (plane.store.database, local)]
        sizes = [database.execute("PRAGMA page_size").fetchone()[0] for database in (plane.store.database, local)]
        return sum(map(int.__mul__, pages, sizes)) + sum(map(len, plane.blobs.values()))

    def minute(calls: int) -> None:
        for _ in range(calls):
            number = next(numbers)
            refuse(plane, f"2001:db8:{number:x}::1", f"/v1/tenants/acme/enrollments/{'x' * 80}/response", "ü" * 80)
            plane.seal()  # as the alarm does; a head for each, where it signs three a minute at most
        plane.now += 60

    numbers = itertools.count(1)
    plane.seal()
    before = stored()
    minute(BURST + TOGETHER + 20)
    plane.now += WINDOW_S
    plane.sweep()
    burst = stored() - before
    minutes = 120
    before = stored()
    for number in range(minutes):
        minute(5)
        if number % 5 == 4:
            plane.sweep()
    a_day = burst + (stored() - before) * 1440 // minutes
    print(f"unauthenticated_bytes_stored_per_day {a_day}")
    assert a_day <= 10_000_000


# -- what belongs to no tenant ---------------------------------------------------------------------------------------------------------


def fabric_events(plane: ControlPlane) -> list[FabricEventRecord]:
    return msgspec.convert(plane.admin("GET", "/v1/audit", None, Page[object]).items, list[FabricEventRecord])


def test_refusals_at_the_fabric_are_counted_by_the_hour(plane: ControlPlane) -> None:
    for number in range(50):
        for path in ("/v1/admins", "/v1/tenants", f"/v1/admins/{number}"):
            plane.send(Call("GET" if path != f"/v1/admins/{number}" else "DELETE", path, {}, b""))
    found = fabric_events(plane)
    assert sorted((each.event.subject, each.count) for each in found) == [
        ("DELETE /v1/admins", 50),
        ("GET /v1/admins", 50),
        ("GET /v1/tenants", 50),
    ]
    assert {each.event.actor for each in found} == {"unauthenticated"}
    plane.now += 3600
    plane.send(Call("GET", "/v1/admins", {}, b""))
    assert len(fabric_events(plane)) == 4


def test_a_fabric_wide_action_is_durable_with_what_it_changes(plane: ControlPlane) -> None:
    """In one batch: neither is there without the other, and each tenant's log gets it, once."""
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    wanted = {"name": "somebody", "role": "viewer", "secret_hash": "A" * 43 + "="}
    plane.store.dies_in = 1
    with pytest.raises(Crash):
        plane.admin("POST", "/v1/admins", wanted)
    plane.restart()
    assert (plane.admin("GET", "/v1/admins")["items"], fabric_events(plane)) == ([], [])
    made = plane.admin("POST", "/v1/admins", wanted)
    assert [each.event.kind for each in fabric_events(plane)] == ["admin.created"]
    for name in ("acme", "rival"):
        for _ in range(2):
            plane.restart()
            plane.sweep(name)
        [event] = plane.audited("admin.created", name)
        assert (event["tenant"], event["subject"]) == (name, made["admin"])
    plane.now += 1
    plane.admin("POST", "/v1/tenants", {"tenant": "later"})
    assert plane.audited("admin.created", "later") == []
    assert plane.send(Call("GET", "/v1/audit", {"authorization": f"Bearer {ADMIN_TOKEN}x"})).status == 401


def test_a_crash_between_log_and_mark_copies_an_event_once(plane: ControlPlane) -> None:
    plane.seal()
    plane.admin("POST", "/v1/admins", {"name": "one", "role": "viewer", "secret_hash": "A" * 43 + "="})
    service = plane.service("acme")
    plane.local("acme").dies_in = 3  # the log's two statements are written, the mark is not
    with pytest.raises(Crash):
        asyncio.run(service.fabric_inbox.copy())
    plane.restart()
    assert len(plane.audited("admin.created")) == 1


def test_an_object_that_dies_after_a_change_still_records_it(plane: ControlPlane) -> None:
    """The event is in the batch of the change; it is copied when the object starts again."""
    plane.seal()
    plane.local("acme").dies_in = 1  # before the log's first statement
    with pytest.raises(Crash):
        plane.admin("POST", "/v1/tenants/acme/admins", {"name": "one", "role": "viewer", "secret_hash": "A" * 43 + "="})
    assert len(plane.admin("GET", "/v1/tenants/acme/admins")["items"]) == 1
    plane.restart()
    for _ in range(2):
        plane.sweep()
    assert len(plane.audited("admin.created")) == 1


def test_a_change_that_is_refused_leaves_no_event_and_takes_none_along(plane: ControlPlane) -> None:
    """Other calls of the tenant, or of the fabric, may have recorded something that is not flushed yet."""
    service = plane.service("acme")
    service.journal.record("test.event", actor="another call")
    twice = [TenantStore.adding(Tenant("acme", 1))]
    with pytest.raises(ConstraintError):
        asyncio.run(service.journal.write(twice, "tenant.created", actor="root"))
    asyncio.run(service.journal.flush())
    assert [event.actor for event in plane.events() if event.kind == "test.event"] == ["another call"]
    assert len(plane.audited("tenant.created")) == 1
