"""T2: whose session token is this? The control plane knows; the relay asks once a socket."""

from __future__ import annotations

from typing import Any

import msgspec

from kairos.api.problem import Problem
from kairos.api.session import Introspected, Introspection
from kairos.identity.spiffe import is_name


class TokenRefused(Exception):
    """The control plane's word for it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


async def introspect(control: Any, internal_key: str, token: str, gateway: str) -> Introspected:
    """Raises TokenRefused: the token is not good for this gateway, or the control plane cannot be asked."""
    tenant = token.partition(".")[0]
    if not is_name(tenant):
        raise TokenRefused(Problem("urn:kairos:problem:unauthorized", "The session token is malformed", 401))
    try:
        answer = await control.fetch(
            f"http://fabric/internal/introspect/{tenant}",
            method="POST",
            body=msgspec.json.encode(Introspection(token, gateway)).decode(),
            headers={"authorization": f"Bearer {internal_key}", "content-type": "application/json"},
        )
        body = (await answer.text()).encode()
        if answer.status == 200:
            return msgspec.json.decode(body, type=Introspected)
        problem = msgspec.json.decode(body, type=Problem)
    except Exception as error:  # the other Worker is down, or no control plane: whatever the bridge makes of that
        print(f"introspection: {error}")
        raise TokenRefused(
            Problem(
                "urn:kairos:problem:internal", "The control plane does not answer", 503, "try again", retry_after_s=1
            )
        ) from None
    raise TokenRefused(problem)
