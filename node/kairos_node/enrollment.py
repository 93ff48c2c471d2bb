"""E1-E6 on the device: drives kairos.protocol.enrollment over HTTP and keeps what comes of it on disk."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kairos.api.enrollment import FabricInfo
from kairos.api.problem import ProblemError
from kairos.crypto.provider import Provider
from kairos.crypto.suites import suite_named
from kairos.errors import Refused
from kairos.identity.certificate import parse_certificate_untrusted
from kairos.identity.join_token import JoinToken, parse_join_token_untrusted
from kairos.identity.transcript import fingerprint
from kairos.protocol.enrollment import (
    Answer,
    Answered,
    Ask,
    Challenged,
    CheckCertificate,
    CheckFabric,
    Effect,
    Enrollee,
    Event,
    Kept,
    Pinned,
    Poll,
    Stale,
    State,
)
from kairos_node.backoff import Backoff
from kairos_node.certificates import Trust, trust_untrusted, verify_peer_untrusted
from kairos_node.fabric import FabricClient, Signer
from kairos_node.state import Identity, Join, Keys, NodeState, new_seed

Progress = Callable[[str, str], None]
PATIENCE_S = 60.0  # how long a fabric may be out of reach before the command gives up
_WORTH_A_WORD_S = 1.0
_STALE = frozenset({"challenge-expired", "challenge-used", "not-found"})
_T = TypeVar("_T")


async def enroll(
    token_text: str,
    state: NodeState,
    provider: Provider,
    hostname: str,
    progress: Progress,
    *,
    posture: dict[str, Any] | None = None,
    patience_s: float = PATIENCE_S,
) -> Identity:
    """Joins the fabric that the token names; goes on where an earlier, killed run was. Waits while it is held.

    progress: called with a step of docs/protocol.md §4 and words for a person. Raises Refused, BadMessage, ProblemError,
    or ConnectionError after `patience_s` without the fabric.
    """
    token = parse_join_token_untrusted(token_text)
    with state.locked():
        keys = _keys(token, state, hostname)
        if _lives(keys):
            progress("E6", "enrolled already")
            return state.identity(provider, time.time())
        enrolling = _Enrolling(token, state, provider, keys, hostname, progress, posture or {}, patience_s)
        await enrolling.run()
        return state.identity(provider, time.time())


def check_fabric_untrusted(provider: Provider, join: Join, info: FabricInfo, now: float) -> Trust:
    """Holds what the fabric says of itself against what the token pinned. Raises Refused or BadMessage."""
    if info.suite != join.suite:
        raise Refused("wrong-suite", f"the fabric speaks suite {info.suite}, the join token says {join.suite}")
    if info.trust_domain != join.trust_domain:
        raise Refused("wrong-root", f"the fabric's trust domain is {info.trust_domain}, not {join.trust_domain}")
    if fingerprint(info.policy_key) != join.policy_fingerprint:
        raise Refused("wrong-policy-key", "the fabric's policy key is not the one that the join token pinned")
    return trust_untrusted(
        provider,
        suite_named(join.suite),
        join.trust_domain,
        info.root_certificate,
        info.issuer_certificate,
        join.root_fingerprint,
        now,
    )


def check_own_certificate_untrusted(
    provider: Provider, trust: Trust, join: Join, node: str, public_key: bytes, der: bytes, now: float
) -> None:
    """E6: chain, name, validity and key. Raises Refused or BadMessage."""
    own = verify_peer_untrusted(provider, trust, [der], tenant=join.tenant, role=join.role, now=now, node=node)
    if own.public_key != public_key:
        raise Refused("bad-certificate", "the fabric certified a key that is not ours")


class _Enrolling:
    """One run of `enroll`: performs the machine's effects."""

    def __init__(
        self,
        token: JoinToken,
        state: NodeState,
        provider: Provider,
        keys: Keys,
        hostname: str,
        progress: Progress,
        posture: dict[str, Any],
        patience_s: float,
    ) -> None:
        self._state, self._provider, self._keys = state, provider, keys
        self._join = _join(token, hostname)
        self._key = provider.signing_key(suite_named(token.suite), keys.seed)
        self._machine = Enrollee(token, self._key, hostname, posture, _enrolled_as(keys))
        self._progress = progress
        self._patience_s = patience_s
        self._client = FabricClient(token.fabric_url, token.tenant, Signer("", self._key))
        self._trust: Trust | None = None
        self._told_held = False

    async def run(self) -> None:
        machine = self._machine
        async with self._client:
            effects = deque(machine.begin())
            while machine.state is not State.ENROLLED:
                if effects:
                    event = await self._perform(effects.popleft())
                    effects.extend(machine.receive(event, time.monotonic()))
                    self._tell_held(event)
                else:
                    effects.extend(await self._wait())

    async def _wait(self) -> list[Effect]:
        deadline = self._machine.next_deadline()
        assert deadline is not None, "the machine waits for nothing"
        await asyncio.sleep(max(0.0, deadline[0] - time.monotonic()))
        return self._machine.tick(time.monotonic())

    async def _perform(self, effect: Effect) -> Event:
        match effect:
            case CheckFabric():
                return await self._check_fabric()
            case Ask(body):
                self._progress("E1", f"asking tenant {self._join.tenant} to join as {self._machine.node}")
                challenge = await self._patiently(lambda: self._client.enroll(body))
                self._progress("E3", "the fabric and its gateway verified the device; challenge received")
                return Challenged(challenge)
            case Answer(enrollment, body):
                self._progress("E4", "answering the challenge with the device key")
                return await self._standing(lambda: self._client.respond(enrollment, body))
            case Poll(enrollment):
                return await self._standing(lambda: self._client.enrollment(enrollment))
            case CheckCertificate(certificate, node):
                return self._keep(certificate, node)

    async def _check_fabric(self) -> Pinned:
        info = await self._patiently(self._client.info)
        self._trust = check_fabric_untrusted(self._provider, self._join, info, time.time())
        self._state.keep_fabric(info)
        return Pinned(info)

    async def _standing(self, call: Callable[[], Awaitable[Any]]) -> Answered | Stale:
        try:
            return Answered(await self._patiently(call))
        except ProblemError as error:
            if error.code in _STALE:
                return Stale()
            raise

    def _keep(self, certificate: bytes, node: str) -> Kept:
        assert self._trust is not None
        check_own_certificate_untrusted(
            self._provider, self._trust, self._join, node, self._key.public_key, certificate, time.time()
        )
        self._progress("E6", f"certificate received: {node}")
        self._state.keep_keys(Keys(self._keys.seed, certificate))
        return Kept()

    def _tell_held(self, event: Event) -> None:
        if isinstance(event, Answered) and self._machine.state is State.HELD and not self._told_held:
            self._told_held = True
            self._progress(
                "E5", f"held ({self._machine.held_for}): the operator runs `kairos device approve {self._machine.node}`"
            )

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Again with backoff while the fabric is out of reach or fails; each call is safe to repeat."""
        backoff, give_up_at = Backoff(), time.monotonic() + self._patience_s
        while True:
            try:
                return await call()
            except (ConnectionError, ProblemError) as error:
                passing = not isinstance(error, ProblemError) or error.problem.status >= 500
                wait = backoff.next()
                if not passing or time.monotonic() + wait > give_up_at:
                    raise
                if wait > _WORTH_A_WORD_S:
                    self._progress("wait", f"{error}; trying again in {wait:.0f} s")
                await asyncio.sleep(wait)


def _join(token: JoinToken, hostname: str) -> Join:
    return Join(
        token.fabric_url,
        token.trust_domain,
        token.suite,
        token.tenant,
        "gateway" if token.role == "gateway" else "endpoint",
        token.token_id,
        token.root_fingerprint,
        token.policy_fingerprint,
        hostname,
    )


def _keys(token: JoinToken, state: NodeState, hostname: str) -> Keys:
    """The key that this token was used with, or a new one, on disk before anyone hears of it."""
    join, keys = state.join, state.keys
    if join is not None and keys is not None:
        if (join.tenant, join.token_id) == (token.tenant, token.token_id):
            return keys
        if _lives(keys):
            raise Refused(
                "already-enrolled",
                f"this node belongs to tenant {join.tenant} already; remove {state.directory} to enroll it anew",
            )
    keys = Keys(new_seed())
    state.begin(_join(token, hostname), keys.seed)
    return keys


def _enrolled_as(keys: Keys) -> str:
    """The id in the certificate that has ended; empty: there is none."""
    spiffe = parse_certificate_untrusted(keys.certificate).spiffe if keys.certificate else None
    return spiffe.node if spiffe is not None else ""


def _lives(keys: Keys) -> bool:
    """A node whose certificate has ended must enroll again."""
    return bool(keys.certificate) and parse_certificate_untrusted(keys.certificate).valid_at(time.time())
