"""Enrollment, the device's side, as a state machine (docs/protocol.md §4).

    NEW -> PINNING -> ASKING --challenge--> ANSWERING --issued--> CHECKING -> ENROLLED
                        ^                    |     |                 ^
                        +------- stale ------+     +--held--> HELD --+

Every effect is answered by exactly one event, so the driver is a loop. The device may be killed anywhere: with the same
key and token it starts at NEW again and ends as the same node.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from kairos.api.enrollment import Challenge, ChallengeResponse, Enrollment, EnrollRequest, FabricInfo
from kairos.constants import CHALLENGE_BYTES
from kairos.crypto import labels
from kairos.crypto.provider import SigningKey
from kairos.errors import UNREADABLE, BadMessage, IllegalMove, Refused
from kairos.identity import transcript
from kairos.identity.join_token import JoinToken
from kairos.identity.spiffe import node_id

STALE_MAX = 5  # challenges that died on us before we give up
POLL_FIRST_S = 1.0
POLL_MOST_S = 10.0
_ENROLLMENT_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")  # it becomes a part of a URL


class State(Enum):
    NEW = auto()
    PINNING = auto()
    ASKING = auto()
    ANSWERING = auto()
    HELD = auto()
    CHECKING = auto()
    ENROLLED = auto()


# -- effects: what the driver must do next -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckFabric:
    """GET /v1/fabric and hold it against the token's pins; answer with `Pinned`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """E1: send this body; answer with `Challenged`."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """E4: send this body; answer with `Answered` or `Stale`."""

    enrollment: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Poll:
    """E5: ask how it stands; answer with `Answered` or `Stale`."""

    enrollment: str


@dataclass(frozen=True, slots=True)
class CheckCertificate:
    """E6: check chain, key, name and validity, and keep it; answer with `Kept`."""

    certificate: bytes
    node: str


Effect = CheckFabric | Ask | Answer | Poll | CheckCertificate
Effects = list[Effect]


# -- events: what came of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pinned:
    """The fabric is the one that the token names."""

    info: FabricInfo


@dataclass(frozen=True, slots=True)
class Challenged:
    """E3, exactly as it crossed the wire."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """How the fabric says the enrollment stands."""

    enrollment: Enrollment


@dataclass(frozen=True, slots=True)
class Stale:
    """The challenge was used or has ended, or the enrollment is forgotten: ask for a new one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The certificate was right and is on disk."""


Event = Pinned | Challenged | Answered | Stale | Kept


class Enrollee:
    """One device that joins with `token`. posture: what the admission policy sees of it; node: the id that it has if it enrolled
    before, for the id stays when the key rotates."""

    def __init__(
        self, token: JoinToken, key: SigningKey, hostname: str, posture: dict[str, Any], node: str = ""
    ) -> None:
        self.state = State.NEW
        self.held_for = ""
        self.node = node or node_id(token.role, key.public_key)
        self._key = key
        self._request = msgspec.json.encode(
            EnrollRequest(
                token.suite,
                "gateway" if token.role == "gateway" else "endpoint",
                token.token_id,
                token.secret,
                key.public_key,
                hostname,
                posture,
            )
        )
        self._enrollment = ""
        self._stale = 0
        self._polls = 0
        self._poll_at = 0.0

    def begin(self) -> Effects:
        if self.state is not State.NEW:
            raise IllegalMove(f"begin in state {self.state.name}")
        self.state = State.PINNING
        return [CheckFabric()]

    def receive(self, event: Event, now: float) -> Effects:
        """What an effect led to. Raises Refused or BadMessage when the fabric's word is no good; IllegalMove is our
        own defect."""
        move = _MOVES.get((self.state, type(event)))
        if move is None:
            raise IllegalMove(f"{type(event).__name__} in state {self.state.name}")
        handler: Callable[[Event, float], Effects] = getattr(self, move)
        return handler(event, now)

    def next_deadline(self) -> tuple[float, str] | None:
        """When `tick` must be called next, and why."""
        return (self._poll_at, "poll") if self.state is State.HELD else None

    def tick(self, now: float) -> Effects:
        if self.state is not State.HELD or now < self._poll_at:
            return []
        self._schedule_poll(now)
        return [Poll(self._enrollment)]

    def _ask(self, _event: Event, _now: float) -> Effects:
        """E1; also after a challenge that died."""
        if self.state is not State.PINNING:
            self._stale += 1
            if self._stale > STALE_MAX:
                raise Refused("challenge-expired", "every challenge ended before it was answered; check the clocks")
        self.state = State.ASKING
        return [Ask(self._request)]

    def _answer(self, event: Challenged, _now: float) -> Effects:
        """E3 to E4."""
        self._enrollment = parse_challenge_untrusted(event.body).enrollment
        signed = transcript.enrollment(self._request, event.body)
        body = msgspec.json.encode(ChallengeResponse(self._key.sign(signed, labels.ENROLL_RESPONSE)))
        self.state = State.ANSWERING
        return [Answer(self._enrollment, body)]

    def _stands(self, event: Answered, now: float) -> Effects:
        """E5 or E6."""
        enrollment = event.enrollment
        if enrollment.enrollment != self._enrollment:
            raise BadMessage("the fabric answered for another enrollment")
        match enrollment.status:
            case "issued":
                if enrollment.node != self.node:
                    raise Refused("wrong-peer", f"the fabric calls us {enrollment.node}, we are {self.node}")
                self.state = State.CHECKING
                return [CheckCertificate(enrollment.certificate, enrollment.node)]
            case "held":
                if self.state is not State.HELD:
                    self.state, self.held_for = State.HELD, enrollment.reason or enrollment.rule
                    self._schedule_poll(now)
                return []
            case "denied":
                raise Refused("admission-denied", f"admission was denied: {enrollment.reason or enrollment.rule}")
            case "challenged":
                raise BadMessage("the fabric took the answer and still wants one")

    def _enrolled(self, _event: Event, _now: float) -> Effects:
        self.state = State.ENROLLED
        return []

    def _schedule_poll(self, now: float) -> None:
        """Briefly at first, for an operator who watches; then seldom."""
        self._poll_at = now + min(POLL_MOST_S, POLL_FIRST_S + self._polls / 10)
        self._polls += 1


_MOVES: Mapping[tuple[State, type[Event]], str] = {
    (State.PINNING, Pinned): "_ask",
    (State.ASKING, Challenged): "_answer",
    (State.ANSWERING, Answered): "_stands",
    (State.ANSWERING, Stale): "_ask",
    (State.HELD, Answered): "_stands",
    (State.HELD, Stale): "_ask",
    (State.CHECKING, Kept): "_enrolled",
}


def parse_challenge_untrusted(body: bytes) -> Challenge:
    """E3. Raises BadMessage."""
    try:
        challenge = msgspec.json.decode(body, type=Challenge)
    except UNREADABLE as error:
        raise BadMessage(f"the challenge: {error}") from None
    if len(challenge.challenge) != CHALLENGE_BYTES or not _ENROLLMENT_ID.fullmatch(challenge.enrollment):
        raise BadMessage("the challenge: a field has the wrong size")
    return challenge
