"""From a call to its reply, in both places that answer calls: the Worker's entrypoint and a Tenant object."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from kairos.api.problem import ProblemError

from ..fabric import FabricServices
from ..problems import problem
from ..services.enrollments import unknown_enrollment, unknown_token
from ..services.rate_limits import site_of
from ..services.sessions import unknown_session
from ..tenant import TenantServices
from . import openapi, refusals
from .authentication import (
    authenticate,
    authenticate_again,
    authenticate_at_fabric,
    by_headers,
    unknown_device,
)
from .call import Call, Reply, problem_reply, reply
from .resources.internal import introspect
from .routing import Caller, Route, find
from .table import FABRIC, TENANT

ReadBody = Callable[[int], Awaitable[bytes]]
"""Reads the body of a request, of at most this many bytes. Raises body-too-large."""

# Bytes of request bodies in memory at once; an isolate has 128 MB. Callers that are authenticated before their body is
# read have a part of their own, so that unauthenticated uploads that never end do not block them.
_BODIES_MAX = 40 * 1024 * 1024
_UNAUTHENTICATED_BODIES_MAX = 16 * 1024 * 1024
_SOURCE_BODIES_MAX = (
    2 * 1024 * 1024
)  # of these, of one source: nodes sign what they send, so their bodies are among them
_BODY_WAIT_S = 30.0


async def document(fabric: FabricServices, call: Call) -> Reply:
    return reply(openapi.document(ALL))


DOCUMENT: Route[FabricServices] = Route(
    "GET", "/v1/openapi.json", Caller.ANYONE, document, "This document", answer=dict
)
FABRIC_ROUTES = (*FABRIC, DOCUMENT)
ALL: tuple[Route[Any], ...] = (*FABRIC_ROUTES, *TENANT)


class Bodies:
    """The memory that request bodies take in this isolate, bounded over all calls and over those of one source."""

    def __init__(self, limit: int, source_limit: int) -> None:
        """source_limit: of calls from one address or, by IPv6, one site. Calls without an address have no such bound."""
        self._left, self._source_limit = limit, source_limit
        self._of_source = Counter[str]()

    @asynccontextmanager
    async def read(self, call: Call, route: Route[Any], read: ReadBody) -> AsyncIterator[None]:
        """Fills in the body of a call whose route takes one, for as long as the call is served.

        Raises length-required, body-too-large, request-timeout, and too-many-requests while other bodies take all the
        memory.
        """
        length, source = declared_length(call, route), site_of(call.source)
        if length > self._left or (source and self._of_source[source] + length > self._source_limit):
            raise problem("too-many-requests", "too many large requests at once; try again", 1)
        self._take(source, length)
        try:
            if length:
                call.body = await _in_time(read(length))
            yield
        finally:
            self._take(source, -length)

    def _take(self, source: str, length: int) -> None:
        self._left -= length
        self._of_source[source] += length
        if not self._of_source[source]:
            del self._of_source[source]


async def _in_time(body: Awaitable[bytes]) -> bytes:
    try:
        async with asyncio.timeout(_BODY_WAIT_S):
            return await body
    except TimeoutError:
        raise problem("request-timeout", f"the body did not arrive within {_BODY_WAIT_S:.0f} s") from None


_bodies = Bodies(_BODIES_MAX, _BODIES_MAX)
_unauthenticated_bodies = Bodies(_UNAUTHENTICATED_BODIES_MAX, _SOURCE_BODIES_MAX)


def declared_length(call: Call, route: Route[Any]) -> int:
    """How many bytes of body the request declares. Whatever the method, a body that comes in chunks is refused before
    it is read.

    Raises length-required, body-too-large.
    """
    text = call.headers.get("content-length", "")
    if not text:
        if "transfer-encoding" in call.headers or route.body is not None:
            raise problem("length-required", "send the body with a Content-Length, not in chunks")
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 12:
        raise problem("length-required", "Content-Length is a number of bytes")
    if int(text) > route.body_max:
        raise problem("body-too-large", f"at most {route.body_max} bytes here")
    return int(text)


async def answer(fabric: FabricServices, call: Call, read: ReadBody) -> Reply:
    """A call that belongs to no tenant."""
    try:
        route = find(FABRIC_ROUTES, call)
        await authenticate_at_fabric(fabric, route.caller, call)
        async with _bodies.read(call, route, read):
            return _without_body(call, await route.handler(fabric, call))
    except ProblemError as error:
        await refusals.record_at_fabric(fabric, call, error)
        return problem_reply(error, call.path)


async def answer_tenant(tenant: TenantServices, call: Call, read: ReadBody) -> Reply:
    """A call of one tenant, inside its object. What it did is in the audit log before it is answered."""
    try:
        await tenant.fabric_inbox.begin()
        tenant.limits.take_source(call.source)
        route = find(TENANT, call)
        return _without_body(call, await _answer(tenant, route, call, read))
    except ProblemError as error:
        refusals.record(tenant, call, error)
        return problem_reply(error, call.path)
    finally:
        await tenant.journal.flush()


async def _answer(tenant: TenantServices, route: Route[TenantServices], call: Call, read: ReadBody) -> Reply:
    """Authenticates a caller before it waits for its turn to change records, and again if another turn has ended
    meanwhile."""
    early, ended = by_headers(route, call), tenant.turn.ended
    if early:
        await authenticate(tenant, route, call)
    async with (_bodies if early else _unauthenticated_bodies).read(call, route, read):
        if not early:
            await authenticate(tenant, route, call)
        if not route.serialized:
            return await route.handler(tenant, call)
        async with tenant.turn:
            if tenant.turn.ended != ended:
                await authenticate_again(tenant, route, call)
            await tenant.store.home.refuse_while_moving()
            return await route.handler(tenant, call)


async def answer_stranger(fabric: FabricServices, call: Call, read: ReadBody) -> Reply:
    """A call for a tenant that does not exist. No object is made for it.

    The answer is that of a tenant of which the caller is no part, so nobody can find out which tenants exist.
    """
    try:
        route = find(TENANT, call)
        raise await _refusal_without_tenant(fabric, route, call, read)
    except ProblemError as error:
        return problem_reply(error, call.path)


async def _refusal_without_tenant(
    fabric: FabricServices, route: Route[TenantServices], call: Call, read: ReadBody
) -> ProblemError:
    name = tenant_of(call.path)
    is_node = route.caller is Caller.NODE or (route.caller is Caller.NODE_OR_ADMIN and not call.bearer)
    if not is_node and route.caller not in (Caller.ANYONE, Caller.JOINING):
        await authenticate_at_fabric(fabric, route.caller, call, name)
        if route.handler is not introspect:  # what the relay hears it passes on to a stranger
            return problem("not-found", f"there is no tenant {name}")
    async with _unauthenticated_bodies.read(call, route, read):
        if not is_node and route.body is not None:
            call.decode(route.body)
        if route.caller is Caller.JOINING:
            return unknown_token()
        if route.handler is introspect:
            return unknown_session()
        return unknown_device(name, call) if is_node else unknown_enrollment()


def tenant_of(path: str) -> str:
    """The tenant whose object answers this path; empty: the entrypoint answers it."""
    parts = path.split("/")
    if path.startswith("/v1/tenants/") and len(parts) >= 4:
        return parts[3]
    if path.startswith(("/internal/introspect/", "/internal/sweep/")) and len(parts) == 4:
        return parts[3]
    return ""


def failure(call: Call, error: Exception) -> Reply:
    """The reply after an unexpected exception. The log has the exception; the caller does not see it."""
    print(f"{call.method} {call.path} failed: {type(error).__name__}: {error}")
    return problem_reply(problem("internal", "this is a defect of the fabric; its log has more"), call.path)


def _without_body(call: Call, answer: Reply) -> Reply:
    """RFC 9110 §9.3.2: HEAD is answered with the header of GET."""
    if call.method == "HEAD":
        answer.headers["content-length"] = str(len(answer.body))
        answer.body = b""
    return answer
