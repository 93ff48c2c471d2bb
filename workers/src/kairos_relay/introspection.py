"""T2: whose session token is this? The control plane knows; the relay asks once a socket."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import msgspec

from kairos.api.problem import Problem
from kairos.api.session import Introspected, Introspection
from kairos.identity.spiffe import is_name

_ANSWER_S = 4.0
_KEPT = 10_000


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
        async with asyncio.timeout(_ANSWER_S):
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


class Introspections:
    """Tokens that the control plane has vouched for, for when it is away: each to its end, the newest of a session only. In memory, so
    an eviction forgets them, and who is forgotten waits for the control plane."""

    def __init__(self) -> None:
        self._by_session: dict[str, tuple[bytes, Introspected]] = {}

    def learn(self, token: str, who: Introspected) -> None:
        self._by_session.pop(who.session, None)
        self._by_session[who.session] = _digest(token), who
        if len(self._by_session) > _KEPT:
            del self._by_session[next(iter(self._by_session))]

    def of(self, token: str) -> Introspected | None:
        """What was said of this very token, while it is good."""
        digest, now = _digest(token), time.time()
        self._by_session = {each: held for each, held in self._by_session.items() if held[1].expires_at > now}
        return next((who for known, who in self._by_session.values() if known == digest), None)

    def cut(self, node: str, session: str) -> None:
        self._by_session = {
            each: held for each, held in self._by_session.items() if each != session and held[1].node != node
        }


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
