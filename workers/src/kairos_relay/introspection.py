"""T2: introspection of session tokens. The relay asks the control plane once for each socket and once for each
renewal."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import msgspec

from kairos.api.problem import Problem
from kairos.api.session import SOURCE_HEADER, Introspected, Introspection
from kairos.identity.spiffe import is_name

_ANSWER_S = 4.0
_KEPT = 10_000


class TokenRefused(Exception):
    """The token is not good for this gateway, or the control plane cannot be asked. `problem` says which."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def is_outage(self) -> bool:
        """The control plane gave no answer, so the token may be good."""
        return self.problem.status >= 500


async def introspect(control: Any, introspection_key: str, token: str, gateway: str, source: str) -> Introspected:
    """Asks the control plane. control: its service binding; source: the caller's address, or "". Raises
    TokenRefused."""
    tenant = token.partition(".")[0]
    if not is_name(tenant):
        raise TokenRefused(Problem("urn:kairos:problem:unauthorized", "The session token is malformed", 401))
    try:
        async with asyncio.timeout(_ANSWER_S):
            answer = await control.fetch(
                f"http://fabric/internal/introspect/{tenant}",
                method="POST",
                body=msgspec.json.encode(Introspection(token, gateway)).decode(),
                headers={
                    "authorization": f"Bearer {introspection_key}",
                    "content-type": "application/json",
                    **({SOURCE_HEADER: source} if source else {}),
                },
            )
            body = (await answer.text()).encode()
        if answer.status == 200:
            return msgspec.json.decode(body, type=Introspected)
        problem = msgspec.json.decode(body, type=Problem)
    except Exception as error:  # any type: it depends on the bridge to JavaScript, and on what was answered
        print(f"introspection: {error}")
        raise TokenRefused(
            Problem(
                "urn:kairos:problem:internal", "The control plane does not answer", 503, "try again", retry_after_s=1
            )
        ) from None
    raise TokenRefused(problem)


class Introspections:
    """The newest introspections, used while the control plane does not answer.

    They are kept for the newest token of each session until it expires, and for at most 10,000 tokens; then the oldest
    is dropped. They are in memory only, so after an eviction a token has to wait for the control plane.
    """

    def __init__(self) -> None:
        self._by_token: dict[bytes, Introspected] = {}
        self._token_of: dict[str, bytes] = {}  # by session

    def learn(self, token: str, who: Introspected) -> None:
        self._forget(who.session)
        digest = _digest(token)
        self._by_token[digest] = who
        self._token_of[who.session] = digest
        if len(self._by_token) > _KEPT:
            self._forget(next(iter(self._token_of)))

    def of(self, token: str) -> Introspected | None:
        """The newest introspection of this token, unless the session has expired."""
        who = self._by_token.get(_digest(token))
        return who if who is not None and who.expires_at > time.time() else None

    def cut(self, node: str, session: str) -> None:
        for who in list(self._by_token.values()):
            if who.session == session or who.node == node:
                self._forget(who.session)

    def _forget(self, session: str) -> None:
        digest = self._token_of.pop(session, None)
        if digest is not None:
            self._by_token.pop(digest, None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
