"""E2: a gateway of the tenant judges by policy who may enroll. Its verdict is signed. Without a verdict in time
nobody enrolls."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from kairos.api.push import AdmissionRequest, AdmissionVerdict, encode
from kairos.constants import ADMISSION_WAIT_S
from kairos.crypto import labels
from kairos.identity import transcript

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on an enrollment. A denial is raised as admission-denied instead."""

    outcome: str
    """allow or hold."""
    rule: str
    """The id of the policy rule behind it."""
    reason: str
    """For a person."""


class Admission:
    """The admission point of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores) -> None:
        self._platform = platform
        self._store = store
        self._waiting: dict[str, tuple[str, asyncio.Future[AdmissionVerdict]]] = {}

    async def judge(self, role: str, subject: dict[str, Any]) -> Verdict:
        """Asks the connected gateways that are not isolated, oldest first, until one answers. A tenant's first gateway has none to ask and is held.

        Raises a ProblemError: no-gateway, gateway-unavailable, admission-denied.
        """
        gateways = await self._store.devices.gateways()
        if not gateways:
            if role == "gateway":
                return Verdict(
                    "hold", "admission:first-gateway", "the first gateway of a tenant waits for the operator"
                )
            raise problem("no-gateway", "enroll a gateway first: it decides who may join")
        online = set(self._platform.sockets.gateways())
        reachable = [each for each in gateways if each.node in online and self._may_judge(each.node)]
        deadline = asyncio.get_running_loop().time() + ADMISSION_WAIT_S
        for left, gateway in zip(range(len(reachable), 0, -1), reachable, strict=True):
            wait = (deadline - asyncio.get_running_loop().time()) / left
            verdict = await self._ask(gateway.node, gateway.public_key, subject, wait)
            if verdict is not None:
                return verdict
        raise problem("gateway-unavailable", "no gateway of this tenant answered; see that one runs and try again", 5)

    def answered(self, node: str, verdict: AdmissionVerdict) -> None:
        """A gateway has answered. An answer that nobody waits for is dropped."""
        asked, future = self._waiting.get(verdict.id, ("", None))
        if future is not None and asked == node and not future.done():
            future.set_result(verdict)

    async def _ask(self, gateway: str, public_key: bytes, subject: dict[str, Any], wait: float) -> Verdict | None:
        """None: it said nothing in `wait` seconds, nothing that it signed, or it was isolated meanwhile."""
        request = AdmissionRequest(self._platform.entropy(16).hex(), json.dumps(subject, separators=(",", ":")))
        future: asyncio.Future[AdmissionVerdict] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = (gateway, future)
        try:
            if not self._platform.sockets.send(gateway, encode(request)):
                return None
            verdict = await asyncio.wait_for(future, wait)
        except TimeoutError:
            return None
        finally:
            del self._waiting[request.id]
        signed = transcript.admission_verdict(
            request.id, request.input.encode(), verdict.outcome, verdict.rule, verdict.reason
        )
        if not await self._platform.signatures.verify(public_key, signed, verdict.signature, labels.ADMISSION_VERDICT):
            return None
        if not self._may_judge(gateway):
            return None
        if verdict.outcome == "deny":
            raise problem("admission-denied", f"{verdict.reason} ({verdict.rule})")
        return Verdict(verdict.outcome, verdict.rule, verdict.reason)

    def _may_judge(self, gateway: str) -> bool:
        """An isolated node keeps its events socket, to be told of its release, and decides nothing."""
        return self._store.isolations.reason(gateway) is None
