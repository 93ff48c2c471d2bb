"""E1 to E6: a device asks to join, answers its challenge, and collects its certificate."""

from __future__ import annotations

from kairos.api.enrollment import Challenge, ChallengeResponse, Enrollment, EnrollRequest
from kairos.constants import ENROLLMENT_MAX

from ...tenant import TenantServices
from ..authentication import signed_request_of
from ..call import Call, Reply, reply
from ..routing import AT, Caller, Route


async def request(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.enrollments.request(call.decode(EnrollRequest), signed_request_of(call)), 201)


async def respond(tenant: TenantServices, call: Call) -> Reply:
    answer = call.decode(ChallengeResponse)
    return reply(await tenant.enrollments.respond(call.parameters["enrollment"], answer.signature))


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(tenant.enrollments.show(call.parameters["enrollment"]))


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
        body_max=ENROLLMENT_MAX,
    ),
    # Not serialized: the service verifies the signature in the body, which is the proof of the caller, before it waits
    # for its turn.
    Route(
        "POST",
        AT + "/enrollments/{enrollment}/response",
        Caller.ANYONE,
        respond,
        "E4: answer the challenge",
        body=ChallengeResponse,
        answer=Enrollment,
        body_max=ENROLLMENT_MAX,
    ),
    Route("GET", AT + "/enrollments/{enrollment}", Caller.ANYONE, show, "E5, E6: what became of it", answer=Enrollment),
)
