"""The control plane inside workerd: every route's errors, its document, and that each binding is really used."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import urllib.request
from typing import Any

import aiohttp
import msgspec
import pytest

from fabric_host import TENANT, FabricHost, client_of, default_provider, push_policy
from kairos.api.problem import CONTENT_TYPE, ProblemError
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.api.telemetry import Sample
from kairos.audit.event import Event
from kairos.constants import BODY_MAX
from kairos.crypto import labels
from kairos.identity import transcript
from kairos_control.http.app import ALL
from kairos_control.http.routing import Caller, Route
from kairos_control.problems import PROBLEMS
from kairos_node.state import Identity
from overlay import wait_for

CHUNKS_MAX = 256  # 16 MiB: socket buffers take a few hundred kilobytes of what nobody reads
CLOSED = b""
FILLED = {"tenant": TENANT, "enrollment": "0" * 32, "session": "0" * 32}
PROTECTED = [route for route in ALL if route.caller is not Caller.ANYONE]


def path_of(route: Route[Any]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: FILLED.get(name[1], "nothing"), route.path)


def asked(host: FabricHost, method: str, path: str, **options: Any) -> tuple[int, str, bytes]:
    """(status, content type, body) of one raw request."""

    async def ask() -> tuple[int, str, bytes]:
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, host.operator.url + path, **options) as answer,
        ):
            return answer.status, answer.content_type, await answer.read()

    return asyncio.run(ask())


def problem_code(answer: tuple[int, str, bytes], path: str) -> str:
    """The code of a well-formed problem that matches its own status and the page of all problems."""
    status, content_type, body = answer
    assert content_type == CONTENT_TYPE, body
    problem = json.loads(body)
    code: str = problem["type"].removeprefix("urn:kairos:problem:")
    assert (problem["status"], problem["title"]) == PROBLEMS[code] == (status, PROBLEMS[code][1])
    assert problem["instance"] == path.split("?")[0]
    assert problem["detail"], f"{code} says nothing of what to do next"
    return code


@pytest.mark.parametrize("route", PROTECTED, ids=lambda route: f"{route.method} {route.path}")
def test_a_protected_route_without_credentials_is_a_401(host: FabricHost, route: Route[Any]) -> None:
    path = path_of(route)
    body: dict[str, Any] = {"json": {}} if route.method in ("POST", "PUT") else {}
    code = problem_code(asked(host, route.method, path, **body), path)
    allowed = {Caller.JOINING: {"invalid"}, Caller.NODE: {"unknown-device"}}
    assert code in {"unauthorized", "unknown-device", *allowed.get(route.caller, set())}


@pytest.mark.parametrize(
    "route", [each for each in ALL if each.body is not None], ids=lambda route: f"{route.method} {route.path}"
)
@pytest.mark.parametrize(("body", "codes"), [(b"{", {"malformed"}), (b"[]", {"invalid"}), (b"\xff\xfe", {"malformed"})])
def test_a_senseless_body_is_named(host: FabricHost, route: Route[Any], body: bytes, codes: set[str]) -> None:
    operator, path = host.operator, path_of(route)
    bearer = f"Bearer {operator.admin_token}"
    if route.caller is Caller.INTERNAL:
        bearer = host.bearer("introspection" if "/introspect/" in path else "object")
    headers = {"Authorization": bearer, "Content-Type": "application/json"}
    code = problem_code(asked(host, route.method, path, data=body, headers=headers), path)
    unreached = {Caller.NODE: {"unknown-device"}}
    assert code in unreached.get(route.caller, codes)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/nothing", "not-found"),
        ("GET", "/v1/tenants/NOT-A-LABEL/network", "unknown-device"),
        ("PATCH", "/v1/tenants", "method-not-allowed"),
        ("GET", f"/v1/tenants/{TENANT}/enrollments", "method-not-allowed"),
    ],
)
def test_where_nothing_is_a_problem_is(host: FabricHost, method: str, path: str, code: str) -> None:
    status, content_type, body = asked(host, method, path)
    assert content_type == CONTENT_TYPE
    assert json.loads(body)["type"].endswith(code), (status, body)


def test_a_body_that_is_too_long_is_refused(host: FabricHost) -> None:
    path = f"/v1/tenants/{TENANT}/enrollments"
    assert problem_code(asked(host, "POST", path, data=b"x" * (BODY_MAX + 1)), path) == "body-too-large"


def raw(host: FabricHost, head: str, chunk: bytes = b"") -> tuple[bytes, int]:
    """(the head of the answer, how many times `chunk` was taken) for a request whose body never ends."""

    async def ask() -> tuple[bytes, int]:
        reader, writer = await asyncio.open_connection(host.fabric.host, host.fabric.port)
        writer.write(head.encode() + b"\r\n")
        answer, sent = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n")), 0
        try:
            while chunk and not answer.done() and sent < CHUNKS_MAX:
                writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                await writer.drain()
                sent += 1
        except ConnectionError:
            pass  # the fabric has closed its side: it reads no more
        try:
            return await asyncio.wait_for(answer, 20), sent
        except ConnectionError:
            return CLOSED, sent  # what was still under way has taken the answer with it
        finally:
            writer.close()

    return asyncio.run(ask())


def test_a_declared_length_is_checked_before_the_body_is_read(host: FabricHost) -> None:
    path = f"/v1/tenants/{TENANT}/enrollments"
    answer, _ = raw(host, f"POST {path} HTTP/1.1\r\nHost: fabric\r\nContent-Length: 4000000000\r\n")
    assert answer.split()[1] == b"413"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND", "PURGE"])
@pytest.mark.parametrize(
    "path", ["/v1/health", "/v1/tenants", f"/v1/tenants/{TENANT}/enrollments", f"/v1/tenants/{TENANT}/policy"]
)
def test_a_body_in_chunks_is_not_read_whatever_the_method(host: FabricHost, method: str, path: str) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: fabric\r\nTransfer-Encoding: chunked\r\n"
    answer, sent = raw(host, head, b"x" * 65_536)
    assert answer == CLOSED or answer.split()[1] in (b"401", b"405", b"411"), answer
    assert sent < CHUNKS_MAX, "the fabric went on reading"


@pytest.mark.parametrize("method", ["QUERY", "PROPFIND", "PURGE", "OPTIONS", "DELETE", "LOCK"])
def test_a_method_that_no_route_has_is_a_405_that_names_those_it_has(host: FabricHost, method: str) -> None:
    answer, _ = raw(host, f"{method} /v1/health HTTP/1.1\r\nHost: fabric\r\nContent-Length: 0\r\n")
    assert answer.split()[1] == b"405", answer
    assert b"\r\nallow: get, head\r\n" in answer.lower()


def test_an_events_socket_that_is_refused_is_on_record(host: FabricHost) -> None:
    host.tenant_without_vni("knocked")
    url = f"{host.operator.url}/v1/tenants/knocked/events"

    async def knock() -> int:
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await http.ws_connect(url, headers={"Kairos-Device": "ep-guess"})
            return error.value.status

    assert asyncio.run(knock()) == 401
    [refused] = host.admin("GET", "/knocked/audit?kind=request.refused")["items"]
    assert (refused["actor"], refused["subject"]) == ("ep-guess", "GET /v1/tenants/knocked/events")


@pytest.mark.parametrize("target", ["//[abc", "//host/v1/health"])
def test_a_path_that_could_be_a_host_is_none(host: FabricHost, target: str) -> None:
    answer, _ = raw(host, f"GET {target} HTTP/1.1\r\nHost: {host.fabric.host}\r\n")
    assert answer.startswith(b"HTTP/1.1 404 "), answer


def test_head_is_answered_as_get_is_without_the_body(host: FabricHost) -> None:
    status, content_type, body = asked(host, "HEAD", "/v1/fabric")
    assert (status, content_type, body) == (200, "application/json", b"")


@pytest.mark.parametrize(
    "query",
    ["limit=", "limit=0", "limit=1001", "limit=%D9%A3", "limit=1e2", "limit=" + "9" * 5000, "after=" + "a" * 300],
)
def test_a_query_that_makes_no_sense_is_invalid(host: FabricHost, query: str) -> None:
    headers = {"Authorization": f"Bearer {host.operator.admin_token}"}
    for listing in ("/v1/tenants", f"/v1/tenants/{TENANT}/devices", f"/v1/tenants/{TENANT}/audit"):
        assert problem_code(asked(host, "GET", f"{listing}?{query}", headers=headers), listing) == "invalid"


def test_the_document_names_every_public_route_and_resolves(host: FabricHost) -> None:
    _, _, body = asked(host, "GET", "/v1/openapi.json")
    document = json.loads(body)
    assert document["openapi"] == "3.1.0"
    public = {(route.path, route.method.lower()) for route in ALL if route.caller is not Caller.INTERNAL}
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == public
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == references & set(document["components"]["schemas"])
    assert "EnrollRequest" in references
    seen: set[str] = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            refusals = [each for status, each in operation["responses"].items() if int(status) >= 400]
            assert refusals, (method, path)
            assert all(CONTENT_TYPE in each["content"] for each in refusals), (method, path)
            assert operation["operationId"] not in seen, operation["operationId"]
            seen.add(operation["operationId"])
            assert {each["name"] for each in operation.get("parameters", ())} >= set(re.findall(r"\{(\w+)\}", path))


def test_only_the_control_plane_itself_may_sweep(host: FabricHost) -> None:
    path = f"/internal/sweep/{TENANT}"
    for bearer in (f"Bearer {host.operator.admin_token}", host.bearer("introspection"), host.bearer("cut")):
        assert problem_code(asked(host, "POST", path, headers={"Authorization": bearer}), path) == "unauthorized"
    assert asked(host, "POST", path, headers={"Authorization": host.bearer("object")})[0] == 200


def test_bundles_live_in_r2_and_kv_and_outlive_the_worker(host: FabricHost, endpoint: Identity) -> None:
    bundle = bytes(range(256)) * 4096  # 1 MiB: a BLOB that D1 would not carry
    record = push_policy(host, 1, bundle)

    async def fetched() -> tuple[PolicyRecord, bytes, bytes]:
        async with client_of(endpoint) as client:
            return await client.policy(), await client.policy_bundle(1), await client.policy_bundle(1)

    assert asyncio.run(fetched()) == (record, bundle, bundle)
    kept = host.fabric.state / "control"
    assert any(path.stat().st_size == len(bundle) for path in (kept / "r2").rglob("*") if path.is_file())
    assert any(path.stat().st_size == len(bundle) for path in (kept / "kv").rglob("*") if path.is_file())
    host.fabric.kill("control")
    host.fabric.restart("control")
    assert asyncio.run(fetched()) == (record, bundle, bundle)


def test_a_bundle_that_the_operator_did_not_sign_is_refused(host: FabricHost) -> None:
    for version, tenant_name, code in ((1, TENANT, "policy-stale"), (7, "rival", "invalid")):
        with pytest.raises(ProblemError) as refusal:
            push_policy(host, version, b"bundle", tenant_name, TENANT)
        assert refusal.value.code == code
    stranger = default_provider().signing_key(host.operator.suite, bytes(32))
    signature = stranger.sign(transcript.policy_bundle(TENANT, 9, b"bundle"), labels.POLICY_BUNDLE)
    record = PolicyRecord(TENANT, 9, hashlib.sha384(b"bundle").digest(), signature)
    with pytest.raises(ProblemError) as refusal:
        host.admin("PUT", f"/{TENANT}/policy", PolicyUpload(record, b"bundle"))
    assert refusal.value.code == "policy-unsigned"


def test_an_audit_event_is_recorded_once(host: FabricHost, endpoint: Identity) -> None:
    """Sent three times, listed once; and a node speaks for itself only, whatever it claims."""
    event = Event("f" * 32, 1_800_000_000.5, "rival", "gw-else", "flow.denied", subject="10.7.0.9", rule="grants:none")

    async def send_until_listed() -> list[dict[str, Any]]:
        async with client_of(endpoint) as client:
            for _ in range(3):
                assert await client.send_events([event]) == 1
        async with asyncio.timeout(20):
            while True:
                page = await asyncio.to_thread(host.admin, "GET", f"/{TENANT}/audit?kind=flow")
                if page["items"]:
                    return list(page["items"])

    [listed] = asyncio.run(send_until_listed())
    assert (listed["id"], listed["tenant"], listed["source"]) == (event.id, TENANT, endpoint.node)
    kinds = {each["kind"] for each in recorded(host, 1000)}
    assert {"tenant.created", "certificate.issued", "enrollment.challenged"} <= kinds
    assert any((host.fabric.state / "control/r2").rglob("*"))


def test_a_sample_passes_its_queue_into_minutes_and_hours(host: FabricHost, endpoint: Identity) -> None:
    sample = Sample(1, 0, 1000.0, 2000.0, {"auth": 3, "replay": 1}, 7, 0.5, 1, 12.5, 4, "0.1.0", 0.1, 1 << 26)

    async def say() -> None:
        async with client_of(endpoint) as client:
            await client.send_sample(sample)

    def past(by: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = host.admin("GET", f"/{TENANT}/telemetry/history?by={by}&node={endpoint.node}")[
            "items"
        ]
        return items

    asyncio.run(say())
    (minute,) = wait_for("the minute", lambda: past("minute"), 30)
    os.kill(host.fabric.group("control"), signal.SIGUSR2)  # the cron's turn is now: the whole way, by its queue
    (hour,) = wait_for("the hour", lambda: past("hour"), 30)
    assert (minute["drops"], hour["drops"], hour["samples"]) == (sample.drops, sample.drops, 1)
    assert (hour["decisions"], hour["decision_ms"], hour["rx_bytes_per_s"]) == (7, 0.5, 2000.0)


def test_pages_of_the_audit_follow_each_other(host: FabricHost) -> None:
    whole = recorded(host, 1000)
    seen = recorded(host, 3)
    assert [event["id"] for event in seen[-len(whole) :]] == [event["id"] for event in whole]


def recorded(host: FabricHost, limit: int) -> list[dict[str, Any]]:
    """The whole log, newest first, in pages of at most so many."""
    seen: list[dict[str, Any]] = []
    after = ""
    while True:
        page = host.admin("GET", f"/{TENANT}/audit?limit={limit}{after}")
        seen += page["items"]
        if not page["next"]:
            return seen
        after = f"&after={page['next']}"


def test_a_request_is_taken_once(host: FabricHost, endpoint: Identity) -> None:
    """The very same signed request again, and one whose clock is off."""

    async def scenario() -> list[str]:
        codes = []
        async with client_of(endpoint) as client:
            target = client._path("network")
            headers = client._headers("GET", target, b"")
            for _ in range(2):
                async with client._session.get(client._origin + target, headers=headers) as answer:
                    codes.append(str(answer.status) if answer.status == 200 else (await answer.json())["type"])
            client._clock = lambda: 1_000_000_000
            try:
                await client.network()
            except ProblemError as error:
                codes.append(error.code)
        return codes

    assert asyncio.run(scenario()) == ["200", "urn:kairos:problem:replayed", "stale-timestamp"]


def test_one_tenant_sees_nothing_of_another(host: FabricHost, endpoint: Identity) -> None:
    host.tenant_without_vni("rival")

    async def ask_rival() -> str:
        client = client_of(endpoint)
        client.tenant = "rival"
        async with client:
            with pytest.raises(ProblemError) as refusal:
                await client.network()
        return refusal.value.code

    assert asyncio.run(ask_rival()) == "unknown-device"
    for listing in ("devices", "tokens", "vnis", "audit?kind=flow"):
        assert host.admin("GET", f"/rival/{listing}")["items"] == []
    host.admin("DELETE", "/rival")
    with pytest.raises(ProblemError) as refusal:
        host.admin("GET", "/rival")
    assert refusal.value.code == "not-found"


def test_the_schema_that_runs_is_the_one_in_the_types(host: FabricHost) -> None:
    """An answer of the Worker decodes as the very type its route names."""
    for route in ALL:
        of_an_event = "/audit/" in route.path  # these answer when there is a signed head: tests/in_worker/test_audit.py
        is_json = route.answer not in (bytes, str) and not of_an_event
        if route.method == "GET" and route.caller is Caller.VIEWER and route.path.count("{") <= 1 and is_json:
            answer = host.admin("GET", path_of(route).removeprefix("/v1/tenants"))
            msgspec.convert(answer, route.answer)


def test_prometheus_reads_the_records_of_the_running_database(host: FabricHost) -> None:
    request = urllib.request.Request(
        f"{host.operator.url}/v1/metrics", headers={"Authorization": f"Bearer {host.operator.admin_token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
        text = answer.read().decode()
    assert re.search(r'^kairos_fabric_vnis\{tenant="[a-z]+"\} [1-9]', text, re.MULTILINE)
