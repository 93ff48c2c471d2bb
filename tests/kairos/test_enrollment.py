"""E1-E6 on the device, without network, clock or mathematics."""

from __future__ import annotations

import msgspec
import pytest

from kairos.api.enrollment import Challenge, ChallengeResponse, Enrollment, EnrollRequest, FabricInfo
from kairos.crypto import labels
from kairos.errors import BadMessage, IllegalMove, Refused
from kairos.identity import transcript
from kairos.identity.join_token import JoinToken
from kairos.identity.spiffe import node_id
from kairos.protocol.enrollment import (
    _MOVES,
    STALE_MAX,
    Answer,
    Answered,
    Ask,
    Challenged,
    CheckCertificate,
    CheckFabric,
    Enrollee,
    Event,
    Kept,
    Pinned,
    Poll,
    Stale,
    State,
    parse_challenge_untrusted,
)
from toy_provider import ToySigningKey

TOKEN = JoinToken("http://f", "kairos.test", "KR1", "acme", "endpoint", "t1", bytes(32), bytes(32), bytes(32))
KEY = ToySigningKey(bytes(32))
ID = "0123456789abcdef0123456789abcdef"
NODE = node_id("endpoint", KEY.public_key)
INFO = FabricInfo("1", "KR1", "kairos.test", "http://r", b"", b"", b"")
CHALLENGE = msgspec.json.encode(Challenge(ID, bytes(range(32)), 60))
ISSUED = Enrollment(ID, "issued", node=NODE, certificate=b"der")
HELD = Enrollment(ID, "held", reason="first")

PATHS: dict[State, list[Event]] = {
    State.PINNING: [],
    State.ASKING: [Pinned(INFO)],
    State.ANSWERING: [Pinned(INFO), Challenged(CHALLENGE)],
    State.HELD: [Pinned(INFO), Challenged(CHALLENGE), Answered(HELD)],
    State.CHECKING: [Pinned(INFO), Challenged(CHALLENGE), Answered(ISSUED)],
    State.ENROLLED: [Pinned(INFO), Challenged(CHALLENGE), Answered(ISSUED), Kept()],
}


def enrollee(state: State = State.PINNING) -> Enrollee:
    """A machine that was led to `state`."""
    machine = Enrollee(TOKEN, KEY, "laptop", {"os": "linux"})
    assert machine.begin() == [CheckFabric()]
    for event in PATHS[state]:
        machine.receive(event, 0.0)
    assert machine.state is state
    return machine


def test_the_way_to_a_certificate() -> None:
    machine = enrollee()
    [ask] = machine.receive(Pinned(INFO), 0.0)
    assert isinstance(ask, Ask)
    request = msgspec.json.decode(ask.body, type=EnrollRequest)
    assert (request.suite, request.role, request.token_id, request.hostname) == ("KR1", "endpoint", "t1", "laptop")
    [answer] = machine.receive(Challenged(CHALLENGE), 0.0)
    assert isinstance(answer, Answer)
    signature = msgspec.json.decode(answer.body, type=ChallengeResponse).signature
    assert signature == KEY.sign(transcript.enrollment(ask.body, CHALLENGE), labels.ENROLL_RESPONSE)
    assert machine.receive(Answered(ISSUED), 0.0) == [CheckCertificate(b"der", NODE)]
    assert machine.receive(Kept(), 0.0) == []
    assert machine.state is State.ENROLLED


def test_every_move_that_the_table_does_not_hold_is_illegal() -> None:
    events: list[Event] = [Pinned(INFO), Challenged(CHALLENGE), Answered(ISSUED), Stale(), Kept()]
    for state in PATHS:
        for event in events:
            machine = enrollee(state)
            if (state, type(event)) in _MOVES:
                machine.receive(event, 0.0)
            else:
                with pytest.raises(IllegalMove):
                    machine.receive(event, 0.0)
    with pytest.raises(IllegalMove):
        enrollee().begin()


def test_a_held_device_polls_ever_more_seldom() -> None:
    machine, now, waits = enrollee(State.HELD), 0.0, []
    for _ in range(200):
        deadline = machine.next_deadline()
        assert deadline is not None
        assert machine.tick(deadline[0] - 0.001) == []
        waits.append(deadline[0] - now)
        now = deadline[0]
        assert machine.tick(now) == [Poll(ID)]
        assert machine.receive(Answered(HELD), now) == []
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, 10.0)
    assert machine.receive(Answered(ISSUED), now) == [CheckCertificate(b"der", NODE)]
    assert machine.next_deadline() is None


@pytest.mark.parametrize("state", [State.ANSWERING, State.HELD])
def test_a_challenge_that_died_is_asked_for_again_but_not_for_ever(state: State) -> None:
    machine = enrollee(state)
    for _ in range(STALE_MAX):
        [ask] = machine.receive(Stale(), 0.0)
        assert isinstance(ask, Ask)
        machine.receive(Challenged(CHALLENGE), 0.0)
    with pytest.raises(Refused) as refusal:
        machine.receive(Stale(), 0.0)
    assert refusal.value.code == "challenge-expired"


@pytest.mark.parametrize(
    ("enrollment", "error"),
    [
        (Enrollment(ID, "denied", reason="no"), Refused),
        (Enrollment(ID, "challenged"), BadMessage),
        (Enrollment("another0another0", "issued", node=NODE), BadMessage),
        (Enrollment(ID, "issued", node="ep-another"), Refused),
    ],
)
def test_an_answer_that_is_no_good_ends_it(enrollment: Enrollment, error: type[Exception]) -> None:
    with pytest.raises(error):
        enrollee(State.ANSWERING).receive(Answered(enrollment), 0.0)


@pytest.mark.parametrize("enrollment", ["", "../../admin", "a b" * 8, "x" * 65])
def test_an_enrollment_id_that_is_no_part_of_a_url_is_refused(enrollment: str) -> None:
    body = msgspec.json.encode(Challenge(enrollment, bytes(32), 60))
    with pytest.raises(BadMessage):
        parse_challenge_untrusted(body)


def test_a_challenge_damaged_anywhere_is_refused_or_signs_something_else() -> None:
    """Every bit of E3: the fabric, which signs off on its own copy, would refuse the signature."""
    honest = KEY.sign(transcript.enrollment(b"request", CHALLENGE), labels.ENROLL_RESPONSE)
    for bit in range(len(CHALLENGE) * 8):
        damaged = bytearray(CHALLENGE)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            parse_challenge_untrusted(bytes(damaged))
        except BadMessage:
            continue
        assert KEY.sign(transcript.enrollment(b"request", bytes(damaged)), labels.ENROLL_RESPONSE) != honest


def test_a_node_that_rotated_its_key_stays_the_node_that_it_was() -> None:
    before = node_id("endpoint", b"an earlier key")
    for node, called in ((before, before), (before, NODE), ("", before)):
        machine = Enrollee(TOKEN, KEY, "laptop", {}, node)
        machine.begin()
        for event in PATHS[State.ANSWERING]:
            machine.receive(event, 0.0)
        answered = Answered(msgspec.structs.replace(ISSUED, node=called))
        if node == called:
            assert machine.receive(answered, 0.0) == [CheckCertificate(b"der", before)]
        else:
            with pytest.raises(Refused, match=f"calls us {called}"):
                machine.receive(answered, 0.0)
