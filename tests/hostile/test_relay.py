"""A hostile relay can drop and delay. It reads nothing, changes nothing and makes no session weaker (docs/threat-model.md)."""

from __future__ import annotations

import asyncio
import os

import pytest

from hostile_relay import (
    CHANNEL,
    TO_ENDPOINT,
    TO_GATEWAY,
    WAIT_S,
    HostileRelay,
    Meeting,
    Parties,
    Site,
    Tamper,
    honest,
    meet,
)
from issued import Authority
from kairos.crypto.suites import KR1
from kairos.wire import frame as wire
from kairos.wire.frame import DATAGRAM_WINDOW, FLAG_DATAGRAMS, HEADER, FrameType
from kairos_node.crypto import provider_named

SECRET = b"the plaintext that nobody else may see"
Sites = tuple[Site, Site]

# Codes by which an end may end when its relay lies. Anything else would be a defect.
TYPED = {"tls-failed", "bad-message", "bad-signature", "unexpected-message", "credit-exceeded", "handshake-timeout",
         "relay-lost", "orphaned", "forged", "wrong-peer", "bad-certificate", "endpoint-gone"}  # fmt: skip


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority(provider_named("cryptography"), KR1)


@pytest.fixture(scope="session")
def parties(authority: Authority) -> Parties:
    return Parties(authority, authority.issue("ep-a"), authority.issue("gw-a", "gateway"), authority)


def kind(frame: bytes) -> FrameType:
    return FrameType(frame[0])


def flipped(frame: bytes, at: int, mask: int = 0x01) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= mask
    return bytes(changed)


def flip_at(at: int) -> Tamper:
    return lambda _direction, frame: [flipped(frame, min(at, len(frame) - 1))]


class Nth:
    """Tampers with the n-th frame of a kind in one direction, and leaves the others alone."""

    def __init__(self, direction: str, which: FrameType, number: int, change: Tamper) -> None:
        self.wanted = (direction, which)
        self.number = number
        self.change = change
        self.met = 0

    def __call__(self, direction: str, frame: bytes) -> list[bytes]:
        if (direction, kind(frame)) != self.wanted:
            return [frame]
        self.met += 1
        return self.change(direction, frame) if self.met == self.number + 1 else [frame]


async def outcome(meeting: Meeting) -> tuple[bool, set[str]]:
    """Is there a tunnel that carries the secret unchanged; and the codes by which the ends ended."""
    if await meeting.settled():
        heard = await meeting.say(SECRET, 1.0)
        assert heard in ([SECRET], []), "something arrived that was not sent"
        works = heard == [SECRET]
    else:
        works = False
    return works, {end.code for end in (meeting.endpoint, meeting.gateway) if end.code}


async def ending(meeting: Meeting) -> str:
    """Waits until the gateway's end is over; the code."""
    async with asyncio.timeout(WAIT_S):
        while True:
            await asyncio.sleep(0.002)
            if meeting.gateway.code:
                return meeting.gateway.code


def carries_no_plaintext(relay: HostileRelay) -> bool:
    return all(SECRET not in frame and b"office" not in frame and b"10.7.0.5" not in frame for _, frame in relay.seen)


def test_an_honest_relay_sees_no_plaintext(sites: Sites, parties: Parties) -> None:
    async def story(meeting: Meeting) -> None:
        assert await outcome(meeting) == (True, set())
        assert any(kind(frame) is FrameType.DATAGRAMS for _, frame in meeting.relay.seen)
        assert carries_no_plaintext(meeting.relay)

    meet(sites, parties, honest, story)


def stream_frames(sites: Sites, parties: Parties) -> dict[str, list[int]]:
    """How long the STREAM frames of an undisturbed set-up are, by direction."""

    async def story(meeting: Meeting) -> dict[str, list[int]]:
        assert await meeting.settled()
        return {
            direction: [len(f) for d, f in meeting.relay.seen if d == direction and kind(f) is FrameType.STREAM]
            for direction in (TO_GATEWAY, TO_ENDPOINT)
        }

    lengths: dict[str, list[int]] = meet(sites, parties, honest, story)
    return lengths


def test_a_bit_flipped_anywhere_in_a_stream_ends_the_tunnel(sites: Sites, parties: Parties, impatient: None) -> None:
    """Every STREAM frame, both directions: T3 to T6. Header bytes, record headers, bodies, the last byte."""
    for direction, lengths in stream_frames(sites, parties).items():
        assert len(lengths) >= 3
        for number, size in enumerate(lengths):
            for at in sorted({0, 1, 2, 5, HEADER.size, HEADER.size + 3, HEADER.size + 6, size // 2, size - 1}):
                tamper = Nth(direction, FrameType.STREAM, number, flip_at(at))

                async def spared(meeting: Meeting, at: int = at) -> tuple[bool, set[str]]:
                    found = await outcome(meeting)
                    if at >= HEADER.size:  # a frame that makes no sense ends its socket; a stream only its tunnel
                        assert not meeting.gateway.links[0].lost.done(), "one endpoint took the gateway's socket down"
                    return found

                works, codes = meet(sites, parties, tamper, spared)
                assert not works, f"{direction}, STREAM {number}, byte {at}: a changed set-up came up"
                assert codes <= TYPED, f"{direction}, STREAM {number}, byte {at}: {codes}"


@pytest.mark.parametrize("direction", [TO_GATEWAY, TO_ENDPOINT])
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("attack", ["twice", "never", "late"])
def test_stream_frames_repeated_lost_or_reordered(
    sites: Sites, parties: Parties, impatient: None, direction: str, number: int, attack: str
) -> None:
    held: list[bytes] = []

    def change(_direction: str, frame: bytes) -> list[bytes]:
        if attack == "twice":
            return [frame, frame]
        if attack == "late":
            held.append(frame)
        return []

    one = Nth(direction, FrameType.STREAM, number, change)

    def tamper(where: str, frame: bytes) -> list[bytes]:
        passed = one(where, frame)
        if held and where == direction and passed:
            passed = [*passed, held.pop()]
        return passed

    async def story(meeting: Meeting) -> tuple[bool, set[str]]:
        return await outcome(meeting)

    works, codes = meet(sites, parties, tamper, story)
    assert codes <= TYPED
    assert not works or one.met <= number, "a stream with a hole, a repetition or a swap came up"


def test_a_flipped_datagram_is_dropped_and_the_tunnel_lives(sites: Sites, parties: Parties) -> None:
    for at in (HEADER.size, HEADER.size + 2, HEADER.size + 3, HEADER.size + 4, HEADER.size + 6, HEADER.size + 20, -1):

        async def story(meeting: Meeting, at: int = at) -> None:
            assert await meeting.settled()
            meeting.relay.tamper = Nth(TO_GATEWAY, FrameType.DATAGRAMS, 0, flip_at(at))
            assert await meeting.say(SECRET) == []
            heard = await meeting.say(SECRET, 1.0)
            ended = meeting.gateway.code
            assert heard == [SECRET] or ended == "orphaned", "neither the tunnel lives nor was the frame refused"

        meet(sites, parties, honest, story)


def test_a_replayed_datagram_arrives_once(sites: Sites, parties: Parties) -> None:
    async def story(meeting: Meeting) -> None:
        assert await meeting.settled()
        meeting.relay.tamper = lambda _, frame: [frame] * (5 if kind(frame) is FrameType.DATAGRAMS else 1)
        before = meeting.gateway.site.dataplane.counters().get("drop_replay", 0)
        meeting.endpoint.site.socket.sendto(SECRET, (meeting.gateway.site.address, 9))
        assert await meeting.heard(0.5, count=5) == [SECRET]
        assert meeting.gateway.site.dataplane.counters()["drop_replay"] >= before + 4

    meet(sites, parties, honest, story)


def test_datagrams_of_another_session_open_nothing(sites: Sites, parties: Parties) -> None:
    """Recorded in one tunnel, sent in the next: other keys."""
    recorded: list[bytes] = []

    async def record(meeting: Meeting) -> None:
        assert await meeting.settled()
        assert await meeting.say(SECRET, WAIT_S) == [SECRET]
        recorded.extend(f for d, f in meeting.relay.seen if d == TO_GATEWAY and kind(f) is FrameType.DATAGRAMS)

    async def replay(meeting: Meeting) -> None:
        assert await meeting.settled()
        for frame in recorded:
            await meeting.relay.send(TO_GATEWAY, frame)
        assert await meeting.heard(0.3) == []

    meet(sites, parties, honest, record)
    assert recorded
    meet(sites, parties, honest, replay)


def test_datagrams_turned_back_to_their_sender_open_nothing(sites: Sites, parties: Parties) -> None:
    async def story(meeting: Meeting) -> None:
        assert await meeting.settled()
        await meeting.say(SECRET, WAIT_S)
        before = meeting.endpoint.site.dataplane.counters().get("rx_packets", 0)
        for direction, frame in list(meeting.relay.seen):
            if direction == TO_GATEWAY and kind(frame) is FrameType.DATAGRAMS:
                await meeting.relay.send(TO_ENDPOINT, frame)
        await meeting.heard(0.2)
        assert meeting.endpoint.site.dataplane.counters().get("rx_packets", 0) == before

    meet(sites, parties, honest, story)


INJECTED = {
    "unknown type": b"\xff" + bytes(7),
    "reserved bits": bytes([FrameType.STREAM, 0, 1, 0]) + CHANNEL.to_bytes(4, "big") + b"x",
    "too short": b"\x04",
    "second channel": wire.encode(FrameType.OPENED, CHANNEL + 1, b'{"channel":8,"gateway":"gw-a"}'),
    "same channel again": wire.encode(FrameType.OPENED, CHANNEL, b'{"channel":7,"gateway":"gw-a"}'),
    "malformed OPEN": wire.encode(FrameType.OPEN, CHANNEL, b"{"),
    "a frame for relays": wire.encode(FrameType.RENEW, 0, b"token"),
    "free credit": wire.encode(FrameType.CREDIT, CHANNEL, (1 << 20).to_bytes(4, "big")),
    "free credit for datagrams": wire.encode(FrameType.CREDIT, CHANNEL, (1 << 31).to_bytes(4, "big"), FLAG_DATAGRAMS),
    "half a credit": wire.encode(FrameType.CREDIT, CHANNEL, b"\0\0"),
    "stream bytes": wire.encode(FrameType.STREAM, CHANNEL, os.urandom(300)),
    "a forged alert": wire.encode(FrameType.STREAM, CHANNEL, bytes([21, 3, 3, 0, 2, 2, 40])),
    "a forged close": wire.encode(FrameType.CLOSE, CHANNEL, b'{"code":"forged","reason":"go away"}'),
    "a malformed close": wire.encode(FrameType.CLOSE, CHANNEL, b"\xff"),
    "broken records": wire.encode(FrameType.DATAGRAMS, CHANNEL, b"\xff\xff" + bytes(10)),
    "garbage datagrams": wire.encode(FrameType.DATAGRAMS, CHANNEL, (b"\x00\x40" + os.urandom(64)) * 50),
    "an empty frame": wire.encode(FrameType.DATAGRAMS, CHANNEL),
    "another's channel": wire.encode(FrameType.STREAM, CHANNEL + 1, b"x" * 100),
}


@pytest.mark.parametrize("direction", [TO_GATEWAY, TO_ENDPOINT])
@pytest.mark.parametrize("what", INJECTED)
def test_injected_frames(sites: Sites, parties: Parties, direction: str, what: str) -> None:
    """Into a live tunnel: it goes on unharmed, or ends by a known code; nothing forged arrives."""

    async def story(meeting: Meeting) -> None:
        assert await meeting.settled()
        await meeting.relay.send(direction, INJECTED[what])
        heard = await meeting.say(SECRET, 0.5)
        assert heard in ([SECRET], [])
        codes = {end.code for end in (meeting.endpoint, meeting.gateway) if end.code}
        assert heard or codes, "the tunnel is silent and nobody ended it"
        assert codes <= TYPED

    meet(sites, parties, honest, story)


def test_a_relay_that_grants_no_credit_for_datagrams_costs_the_oldest_and_holds_up_no_control(
    sites: Sites, parties: Parties
) -> None:
    def miser(_direction: str, frame: bytes) -> list[bytes]:
        return [] if kind(frame) is FrameType.CREDIT and frame[1] & FLAG_DATAGRAMS else [frame]

    datagrams = FrameType.DATAGRAMS.value

    async def story(meeting: Meeting) -> None:
        assert await meeting.settled()
        endpoint = meeting.endpoint.site
        before = endpoint.dataplane.counters()["drop_relay_full"]

        def spent() -> int:
            return sum(len(frame) for way, frame in meeting.relay.seen if way == TO_GATEWAY and frame[0] == datagrams)

        async with asyncio.timeout(WAIT_S):
            while spent() < DATAGRAM_WINDOW - 2**17 or endpoint.dataplane.counters()["drop_relay_full"] == before:
                for _ in range(64):
                    endpoint.socket.sendto(bytes(1200), (meeting.gateway.site.address, 9))
                await asyncio.sleep(0)  # the relay's turn
        passed = len(meeting.relay.seen)
        assert meeting.endpoint.tunnel is not None
        meeting.endpoint.tunnel.fail("test-over", "the last word goes through the stream")
        assert await ending(meeting) == "test-over"
        assert FrameType.STREAM in [kind(frame) for way, frame in meeting.relay.seen[passed:] if way == TO_GATEWAY]

    meet(sites, parties, miser, story)


def test_a_relay_that_falls_silent_is_noticed_within_ten_seconds(sites: Sites, parties: Parties) -> None:
    def silent(_direction: str, frame: bytes) -> list[bytes]:
        return [frame] if kind(frame) in (FrameType.OPEN, FrameType.OPENED) else []

    async def story(meeting: Meeting) -> None:
        assert not await meeting.settled()
        assert {meeting.endpoint.code, meeting.gateway.code} & {"handshake-timeout"}

    meet(sites, parties, silent, story)


def test_a_relay_with_a_gateway_of_its_own(sites: Sites, parties: Parties, authority: Authority) -> None:
    """The man in the middle has everything but a certificate under the pinned root."""
    rival = Authority(provider_named("cryptography"), KR1)
    middle = Parties(authority, parties.endpoint_credentials, rival.issue("gw-a", "gateway"), rival)

    async def story(meeting: Meeting) -> None:
        assert not await meeting.settled()
        assert meeting.endpoint.code in ("tls-failed", "bad-certificate")

    meet(sites, middle, honest, story)


def test_a_relay_that_leads_to_another_gateway_of_the_tenant(
    sites: Sites, parties: Parties, authority: Authority
) -> None:
    other = Parties(authority, parties.endpoint_credentials, authority.issue("gw-b", "gateway"), authority)

    async def story(meeting: Meeting) -> None:
        assert not await meeting.settled()
        assert meeting.endpoint.code == "wrong-peer"

    meet(sites, other, honest, story)
