"""T1 and T7 at the fabric, policy, and the audit: tokens, their truth and their end."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from control_plane import INTERNAL_KEY, PROVIDER, ControlPlane, Device, answer
from kairos.api.problem import ProblemError
from kairos.api.push import PolicyAnnouncement, Revocation, SessionNotice
from kairos.api.session import Introspected, Introspection, PolicyRecord, PolicyUpload, SessionGrant
from kairos.audit.event import Event, EventBatch
from kairos.constants import CERTIFICATE_LIFE_S, SESSION_LIFE_S
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.identity import transcript
from kairos_control.http.call import Call

POLICY = "/v1/tenants/acme/policy"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def introspect(plane: ControlPlane, token: str, gateway: str, key: str = INTERNAL_KEY) -> Introspected:
    body = msgspec.json.encode(Introspection(token, gateway))
    call = Call("POST", "/internal/introspect/acme", {"authorization": f"Bearer {key}"}, body)
    return answer(plane.send(call), Introspected)


def opened(plane: ControlPlane, device: Device, **request: Any) -> SessionGrant:
    grant: SessionGrant = plane.node(device, "POST", "/sessions", request, SessionGrant)
    return grant


def test_a_session_is_for_its_device_gateways_and_time(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    pushes = plane.connect(gateway)
    grant = opened(plane, device, posture={"os": "debian"})
    assert grant.expires_at == plane.now + SESSION_LIFE_S
    assert [each.relay_url for each in grant.gateways] == [f"https://relay.test/v1/relay/{gateway.node}"]
    (notice,) = [push for push in pushes if isinstance(push, SessionNotice)]
    assert (notice.session, notice.node, notice.posture) == (grant.session, device.node, {"os": "debian"})
    holder = introspect(plane, grant.token, gateway.node)
    assert (holder.node, holder.role, holder.session) == (device.node, "endpoint", grant.session)
    plane.now += SESSION_LIFE_S
    with refused("unauthorized"):
        introspect(plane, grant.token, gateway.node)


def test_the_token_itself_is_kept_nowhere(plane: ControlPlane, gateway: Device) -> None:
    grant = opened(plane, plane.joined())
    secret = grant.token.partition(".")[2]
    assert secret not in str(plane.state())
    assert secret not in str(plane.events())


def test_a_token_is_good_for_nothing_else(plane: ControlPlane, gateway: Device) -> None:
    grant = opened(plane, plane.joined())
    with refused("unauthorized"):
        introspect(plane, grant.token, "gw-another")
    with refused("unauthorized"):
        introspect(plane, grant.token[:-1], gateway.node)
    with refused("unauthorized"):
        introspect(plane, grant.token, gateway.node, key="guessed")


def test_renewing_extends_the_session_under_a_new_token(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    first = opened(plane, device)
    plane.now += 200
    with refused("session-ended"):
        opened(plane, other, renews=first.session)
    second = opened(plane, device, renews=first.session)
    assert second.session == first.session
    assert second.expires_at == plane.now + SESSION_LIFE_S
    assert introspect(plane, second.token, gateway.node).expires_at == second.expires_at
    with refused("unauthorized"):
        introspect(plane, first.token, gateway.node)
    plane.now += SESSION_LIFE_S + 1
    with refused("session-ended"):
        opened(plane, device, renews=first.session)


def test_a_session_ends_with_the_certificate(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    plane.now += CERTIFICATE_LIFE_S - 100
    assert opened(plane, device).expires_at == plane.now + 100


def test_a_node_ends_its_own_session_only(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    grant = opened(plane, device)
    with refused("session-ended"):
        plane.node(other, "DELETE", f"/sessions/{grant.session}")
    introspect(plane, grant.token, gateway.node)
    plane.node(device, "DELETE", f"/sessions/{grant.session}")
    with refused("unauthorized"):
        introspect(plane, grant.token, gateway.node)


def test_a_gateway_gets_its_own_relay_socket_only(plane: ControlPlane, gateway: Device) -> None:
    other = plane.joined("gateway")
    grant = opened(plane, gateway)
    assert [each.gateway for each in grant.gateways] == [gateway.node]
    with refused("unauthorized"):
        introspect(plane, grant.token, other.node)


def test_a_gateway_that_nobody_runs_is_not_offered_first(plane: ControlPlane, gateway: Device) -> None:
    other = plane.joined("gateway")
    del plane.sockets["acme"].connected[gateway.node]
    device = plane.joined()
    assert [each.gateway for each in opened(plane, device).gateways] == [other.node, gateway.node]
    assert [each.gateway for each in opened(plane, device, gateway=gateway.node).gateways] == [gateway.node]
    with refused("no-gateway"):
        opened(plane, device, gateway="gw-nobody")


def test_a_revocation_ends_everything_everywhere(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    grant = opened(plane, device)
    pushes = plane.connect(gateway)
    plane.relay.reachable = False
    plane.admin("DELETE", f"/v1/tenants/acme/devices/{device.node}")
    with refused("unauthorized"):
        introspect(plane, grant.token, gateway.node)
    assert [push.node for push in pushes if isinstance(push, Revocation)] == [device.node]
    (cut,) = plane.relay.cuts
    assert (cut.node, cut.gateways, cut.until) == (device.node, [gateway.node], plane.now + SESSION_LIFE_S)
    assert device.node in {node for node, _, _ in plane.sockets["acme"].closed}
    assert plane.audited("relay.unreachable")


def test_a_session_that_is_being_opened_is_revoked_too(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    service = plane.service("acme")
    call = plane.signed(device, "POST", "/v1/tenants/acme/sessions", {})
    first = plane.store.first

    async def revoked_between(sql: str, *values: Any) -> Any:
        """The last record that T1 reads, and right after it the operator's word."""
        row = await first(sql, *values)
        if "max(version)" in sql:
            await service.sessions.revoke(device.node, "lost")
        return row

    plane.store.first = revoked_between  # type: ignore[method-assign]
    with refused("revoked"):
        answer(plane.send(call), SessionGrant)
    assert plane.state()["1.sessions"] == []


def test_a_session_that_is_being_opened_follows_a_change_of_vnis(plane: ControlPlane, gateway: Device) -> None:
    device, pushes = plane.joined(), plane.connect(gateway)
    service, rows, changes = plane.service("acme"), plane.store.rows, [True]

    async def removed_between(sql: str, *values: Any) -> Any:
        """What T1 reads of the device's VNIs, and right after it the device is put out of its VNI."""
        found = await rows(sql, *values)
        if "DISTINCT l.node, l.vni" in sql and changes and changes.pop():
            await service.members.remove("office", device.node, "root")
        return found

    plane.store.rows = removed_between  # type: ignore[method-assign]
    grant = opened(plane, device)
    assert (changes, grant.vnis) == ([], [])
    assert [session.vnis for session in service.sessions.current()] == [[]]
    assert [push.vnis for push in pushes if isinstance(push, SessionNotice)] == [[]]


def upload(plane: ControlPlane, bundle: bytes, version: int, tenant: str = "acme", seed: bytes = b"") -> PolicyUpload:
    key = PROVIDER.signing_key(KR1, seed or plane.policy_seed)
    signature = key.sign(transcript.policy_bundle(tenant, version, bundle), labels.POLICY_BUNDLE)
    return PolicyUpload(PolicyRecord(tenant, version, hashlib.sha384(bundle).digest(), signature), bundle)


def test_a_bundle_is_taken_for_its_signature_and_only_upwards(plane: ControlPlane, gateway: Device) -> None:
    pushes = plane.connect(gateway)
    second = upload(plane, b"second", 2)
    plane.admin("PUT", POLICY, second)
    assert PolicyAnnouncement(second.record) in pushes
    before = plane.state()
    for wrong, code in (
        (upload(plane, b"older", 1), "policy-stale"),
        (upload(plane, b"other", 2), "policy-stale"),
        (upload(plane, b"rival's", 3, tenant="rival"), "invalid"),
        (upload(plane, b"forged", 3, seed=bytes(32)), "policy-unsigned"),
        (PolicyUpload(upload(plane, b"signed", 3).record, b"sent"), "invalid"),
    ):
        with refused(code):
            plane.admin("PUT", POLICY, wrong)
    assert plane.state() == before
    reply = plane.send(plane.signed(gateway, "GET", f"{POLICY}/bundle?version=2"))
    assert reply.body == b"second"
    with refused("not-found"):
        plane.node(gateway, "GET", "/policy/bundle?version=3")


def test_the_history_of_policies_is_read_newest_first_in_pages(plane: ControlPlane) -> None:
    for version in range(1, 6):
        plane.now += 1
        plane.admin("PUT", POLICY, upload(plane, b"%d" % version, version))
    first = plane.admin("GET", f"{POLICY}/versions?limit=3")
    rest = plane.admin("GET", f"{POLICY}/versions?limit=3&after={first['next']}")
    assert [each["record"]["version"] for each in first["items"] + rest["items"]] == [5, 4, 3, 2, 1]
    assert rest["next"] == ""
    assert first["items"][0]["created_at"] == plane.now


def test_a_node_speaks_in_the_audit_for_itself_only(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    lie = Event("a" * 32, plane.now, "rival", "fabric", "device.revoked")
    plane.node(device, "POST", "/audit", EventBatch([lie]))
    (told,) = plane.audited("device.revoked")
    assert (told["tenant"], told["source"]) == ("acme", device.node)


def test_an_event_sent_twice_is_stored_once(plane: ControlPlane, gateway: Device) -> None:
    batch = EventBatch([Event("a" * 32, plane.now, "", "", "test.event")])
    for _ in range(2):
        plane.node(gateway, "POST", "/audit", batch)
        plane.seal()
    assert len(plane.audited("test.event")) == 1


def test_the_audit_is_read_newest_first_in_pages(plane: ControlPlane, gateway: Device) -> None:
    for _ in range(5):
        plane.joined()
    plane.seal()
    path = "/v1/tenants/acme/audit?kind=certificate.issued&limit=4"
    first = plane.admin("GET", path)
    second = plane.admin("GET", f"{path}&after={first['next']}")
    times = [each["subject"] for each in first["items"] + second["items"]]
    assert len(times) == len(set(times)) == 6
    assert second["next"] == ""
    with refused("invalid"):
        plane.admin("GET", "/v1/tenants/acme/audit?limit=many")


def test_more_events_than_a_batch_takes_are_refused(plane: ControlPlane, gateway: Device) -> None:
    events = [Event(f"{number:032x}", plane.now, "acme", "", "x") for number in range(501)]
    with refused("invalid"):
        plane.node(gateway, "POST", "/audit", EventBatch(events))


def test_the_sweep_forgets_what_has_ended(plane: ControlPlane, gateway: Device) -> None:
    opened(plane, plane.joined())
    plane.now += 2 * 86_400
    call = Call("POST", "/internal/sweep/acme", {"authorization": f"Bearer {INTERNAL_KEY}"})
    assert plane.send(call).status == 200
    state = plane.state()
    assert state["1.sessions"] == []
    assert state["1.enrollments"] == []


def test_a_request_that_proves_nothing_is_on_record(plane: ControlPlane, gateway: Device) -> None:
    with refused("bad-signature"):
        plane.node(gateway, "GET", "/network", key=Device().key)
    event = plane.audited("request.refused")[-1]
    assert (event["actor"], event["reason"]) == (gateway.node, "bad-signature")
    with refused("unauthorized"):
        answer(plane.send(Call("GET", "/v1/tenants/acme/devices", {"authorization": "Bearer guess"})), dict)
    assert plane.audited("request.refused")[-1]["subject"] == "GET /v1/tenants/acme/devices"
