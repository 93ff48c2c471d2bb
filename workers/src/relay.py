"""The relay's Worker: a socket goes to the object of its gateway, and a cut from the control plane to each object
that it names."""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kairos.api.problem import Problem
from kairos.api.session import Cut
from kairos.identity.spiffe import is_name
from kairos_relay.relay import Relay, problem_response
from workers import Response, WorkerEntrypoint

__all__ = ["Default", "Relay"]


class Default(WorkerEntrypoint):  # type: ignore[misc]
    """The Worker's requests. What a relay does with a socket is in kairos_relay/relay.py."""

    async def fetch(self, request: Any) -> Any:
        parts = urlsplit(request.url).path.split("/")
        if parts[1:3] == ["v1", "relay"] and len(parts) == 4 and is_name(parts[3]):
            if request.headers.get("upgrade", "").lower() != "websocket":
                return refusal("upgrade-required", "This resource is a WebSocket", 426)
            return await self.env.RELAY.getByName(parts[3]).fetch(request)
        if parts[1:] == ["v1", "health"]:
            return Response('{"status":"ok"}', headers={"content-type": "application/json"})
        if parts[1:] == ["internal", "cut"]:
            return await self._cut(request)
        return refusal("not-found", "No such resource", 404)

    async def _cut(self, request: Any) -> Any:
        shown = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        accepted = [self.env.CUT_KEY, getattr(self.env, "CUT_KEY_PREVIOUS", "")]  # the second only during a rotation
        if not any(key and hmac.compare_digest(shown, key.encode()) for key in accepted):
            return refusal("unauthorized", "Only the control plane may call this", 401)
        text = await request.text()
        for gateway in msgspec.json.decode(text.encode(), type=Cut).gateways:
            await self.env.RELAY.getByName(gateway).fetch("http://relay/internal/cut", method="POST", body=text)
        return Response(None, status=204)


def refusal(code: str, title: str, status: int) -> Response:
    return problem_response(Problem(f"urn:kairos:problem:{code}", title, status))
