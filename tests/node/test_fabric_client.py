"""The client against servers that are no fabric: every answer ends in one of three errors, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from kairos.api.problem import ProblemError
from kairos.constants import BODY_MAX
from kairos.crypto.provider import Provider
from kairos.crypto.suites import KR1
from kairos.errors import BadMessage
from kairos.identity.signed_request import parse_proof_untrusted
from kairos_node.fabric import FabricClient, Signer
from web_server import Route, serving_web


def asked(route: Route, call: Callable[[FabricClient], Awaitable[object]], signer: Signer | None = None) -> object:
    """What `call` got from a server that answers everything with `route`."""

    async def scenario() -> object:
        async with serving_web(route) as url, FabricClient(url, "acme", signer) as client:
            return await asyncio.wait_for(call(client), 60)

    return asyncio.run(scenario())


async def _garbage(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\xff\x00 not json")


async def _other_shape(_: web.Request) -> web.StreamResponse:
    return web.json_response({"version": 1})


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(BODY_MAX // 65_536 + 2):
        await response.write(b"x" * 65_536)
    return response


async def _html(_: web.Request) -> web.StreamResponse:
    return web.Response(status=502, text="<h1>Bad gateway</h1>", content_type="text/html")


async def _redirect(_: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def _half_a_problem(_: web.Request) -> web.StreamResponse:
    return web.Response(status=403, text='{"type": "urn:kairos', content_type="application/problem+json")


async def _hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _problem(_: web.Request) -> web.StreamResponse:
    text = '{"type":"urn:kairos:problem:token-used","title":"Used","status":403,"detail":"ask","retry_after_s":3}'
    return web.Response(status=403, text=text, content_type="application/problem+json")


@pytest.mark.parametrize(
    ("route", "error"),
    [
        (_garbage, BadMessage),
        (_other_shape, BadMessage),
        (_endless, BadMessage),
        (_html, ConnectionError),
        (_redirect, ConnectionError),
        (_half_a_problem, ConnectionError),
        (_hang_up, ConnectionError),
    ],
)
def test_an_answer_that_is_none_ends_in_a_typed_error(route: Route, error: type[Exception]) -> None:
    with pytest.raises(error):
        asked(route, lambda client: client.info())


def test_a_problem_keeps_all_its_words() -> None:
    with pytest.raises(ProblemError, match="Used: ask") as refusal:
        asked(_problem, lambda client: client.info())
    assert (refusal.value.code, refusal.value.problem.status, refusal.value.problem.retry_after_s) == (
        "token-used",
        403,
        3,
    )


def test_nobody_there_is_said_without_jargon() -> None:
    async def scenario() -> None:
        async with FabricClient("http://127.0.0.1:1", "acme", None) as client:
            await client.info()

    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1: ") as refusal:
        asyncio.run(scenario())
    assert "ssl" not in str(refusal.value)


def test_no_two_requests_carry_the_same_proof(provider: Provider) -> None:
    seen: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Kairos-Signature"])
        assert request.headers["Kairos-Device"] == "ep-a"
        return web.json_response({"accepted": 0})

    async def twice(client: FabricClient) -> None:
        await client.send_events([])
        await client.send_events([])

    asked(note, twice, Signer("ep-a", provider.signing_key(KR1, bytes(32))))
    first, second = (parse_proof_untrusted(header) for header in seen)
    assert first.nonce != second.nonce
