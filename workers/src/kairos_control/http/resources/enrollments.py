"""E1 to E6: a device asks to join, answers its challenge, and collects its certificate."""

from __future__ import annotations

from kairos.api.enrollment import Challenge, ChallengeResponse, Enrollment, EnrollRequest

from ...tenant import TenantServices
from ..authentication import signed_request_of
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def request(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.enrollments.request(call, signed_request_of(call))


async def respond(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.enrollments.respond(call)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.enrollments.show(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/enrollments",
        Caller.JOINING,
        request,
        "E1-E3: ask to join, get a challenge",
        body=EnrollRequest,
        answer=Challenge,
        status=201,
    ),
    Route(
        "POST",
        AT + "/enrollments/{enrollment}/response",
        Caller.ANYONE,
        respond,
        "E4: answer the challenge",
        body=ChallengeResponse,
        answer=Enrollment,
        serialized=True,
    ),
    Route("GET", AT + "/enrollments/{enrollment}", Caller.ANYONE, show, "E5, E6: what became of it", answer=Enrollment),
)
