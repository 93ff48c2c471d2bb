"""The relay inside workerd: who gets in, what passes, what a hostile end is answered, and that idle sockets live on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from fabric_host import TENANT, FabricHost, client_of
from kairos.api.push import NetworkChanged, Welcome
from kairos.api.relay import parse_close_untrusted
from kairos.wire.frame import (
    DATAGRAM_WINDOW,
    FLAG_DATAGRAMS,
    FRAME_PAYLOAD_MAX,
    HEADER,
    FrameType,
    encode,
)
from kairos_node.state import Identity
from relay_sockets import WAIT_S, Ends, Scenario

_EVICTED_AFTER_S = 13.0  # workerd forgets a hibernating object after about ten seconds of silence


@pytest.fixture
def play(gateway: Identity, endpoint: Identity) -> Callable[[Scenario], None]:
    """Runs a scenario with a fresh gateway socket."""

    async def run(scenario: Scenario) -> None:
        async with Ends(gateway, endpoint) as ends:
            await scenario(ends)

    return lambda scenario: asyncio.run(run(scenario))


def test_frames_pass_both_ways_unchanged_up_to_the_largest(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        endpoint = await ends.endpoint()
        largest = bytes(range(256)) * (FRAME_PAYLOAD_MAX // 256)
        for kind in (FrameType.STREAM, FrameType.DATAGRAMS):
            flags = FLAG_DATAGRAMS if kind is FrameType.DATAGRAMS else 0
            for payload in (b"", b"x", largest):
                credit = len(payload).to_bytes(4, "big")
                for sender, receiver in ((endpoint, ends.gateway), (ends.gateway, endpoint)):
                    await sender.send(kind, payload, endpoint.channel)
                    assert await receiver.frame() == (kind, endpoint.channel, payload)
                    await receiver.send(FrameType.CREDIT, credit, endpoint.channel, flags)
                    assert await sender.frame() == (FrameType.CREDIT, endpoint.channel, credit)

    play(scenario)


def test_two_endpoints_share_the_gateways_socket_and_nothing_else(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        first, second = await ends.endpoint(), await ends.endpoint()
        assert first.channel != second.channel
        await ends.gateway.send(FrameType.STREAM, b"for the second", second.channel)
        await ends.gateway.send(FrameType.STREAM, b"for the first", first.channel)
        assert (await first.frame())[2] == b"for the first"
        assert (await second.frame())[2] == b"for the second"

    play(scenario)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (lambda channel: encode(FrameType.STREAM, channel + 1, b"stolen"), "wrong-channel"),
        (lambda channel: encode(FrameType.DATAGRAMS, 0, b"stolen"), "wrong-channel"),
        (lambda channel: "text", "bad-message"),
        (lambda channel: b"", "bad-message"),
        (lambda channel: b"\x04\x00\x00", "bad-message"),
        (lambda channel: HEADER.pack(99, 0, 0, channel), "bad-message"),
        (lambda channel: HEADER.pack(FrameType.STREAM, 0, 7, channel), "bad-message"),
        (lambda channel: encode(FrameType.STREAM, channel, bytes(FRAME_PAYLOAD_MAX + 1)), "bad-message"),
        (lambda channel: bytes(1 << 20), "bad-message"),
        (lambda channel: encode(FrameType.OPEN, channel, b"{}"), "bad-message"),
        (lambda channel: encode(FrameType.OPENED, channel, b"{}"), "bad-message"),
        (lambda channel: encode(FrameType.PING, 0, bytes(65)), "bad-message"),
        (lambda channel: encode(FrameType.CREDIT, channel, b"\0\0\0"), "bad-message"),
        (lambda channel: encode(FrameType.CREDIT, channel, bytes(FRAME_PAYLOAD_MAX)), "bad-message"),
        (lambda channel: encode(FrameType.RENEW, 0, bytes(257)), "bad-message"),
        (lambda channel: encode(FrameType.RENEW, 0, b"acme.nonsense"), "unauthorized"),
        (lambda channel: encode(FrameType.RENEW, 0, b"\xff" * 40), "unauthorized"),
    ],
)
def test_a_hostile_endpoint_loses_its_own_channel_only(
    play: Callable[[Scenario], None], message: Callable[[int], bytes | str], code: str
) -> None:
    async def scenario(ends: Ends) -> None:
        victim, hostile = await ends.endpoint(), await ends.endpoint()
        await hostile.send_raw(message(hostile.channel))
        assert await hostile.closed() == code
        kind, channel, _ = await ends.gateway.frame()
        assert (kind, channel) == (FrameType.CLOSE, hostile.channel)
        await victim.send(FrameType.STREAM, b"still here")
        assert await ends.gateway.frame() == (FrameType.STREAM, victim.channel, b"still here")

    play(scenario)


def test_an_end_that_goes_on_after_its_end_is_heard_no_more(play: Callable[[Scenario], None]) -> None:
    """Closing a WebSocket takes both sides, and the hostile one does not do its part."""

    async def scenario(ends: Ends) -> None:
        victim, hostile = await ends.endpoint(), await ends.endpoint()
        await hostile.send(FrameType.STREAM, b"stolen", victim.channel)
        kind, channel, payload = await ends.gateway.frame()
        assert (kind, channel) == (FrameType.CLOSE, hostile.channel)
        assert parse_close_untrusted(payload).code == "wrong-channel"
        for again in (FrameType.STREAM, FrameType.DATAGRAMS, FrameType.CLOSE):
            await hostile.send(again, b"still here")
        await hostile.send(FrameType.PING, b"there?")
        await hostile.send(FrameType.RENEW, hostile.grant.token.encode(), 0)
        assert await hostile.closed() == "wrong-channel"  # and no PONG, no RENEWED
        await victim.send(FrameType.STREAM, b"mine")
        assert await ends.gateway.frame() == (FrameType.STREAM, victim.channel, b"mine")

    play(scenario)


def test_a_gateway_that_was_replaced_is_heard_no_more(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        old, ends.gateway = ends.gateway, await ends.connect_gateway()
        endpoint = await ends.endpoint()
        await old.send(FrameType.STREAM, b"from the past", endpoint.channel)
        assert await old.closed() == "replaced"
        await ends.gateway.send(FrameType.STREAM, b"from the present", endpoint.channel)
        assert await endpoint.frame() == (FrameType.STREAM, endpoint.channel, b"from the present")

    play(scenario)


@pytest.mark.parametrize("from_gateway", [False, True])
def test_stream_beyond_the_window_closes_the_channel(play: Callable[[Scenario], None], from_gateway: bool) -> None:
    async def scenario(ends: Ends) -> None:
        neighbour, endpoint = await ends.endpoint(), await ends.endpoint()
        sender, receiver = (ends.gateway, endpoint) if from_gateway else (endpoint, ends.gateway)
        await sender.send(FrameType.STREAM, bytes(FRAME_PAYLOAD_MAX), endpoint.channel)
        assert (await receiver.frame())[0] is FrameType.STREAM
        await receiver.send(FrameType.CREDIT, (100).to_bytes(4, "big"), endpoint.channel)
        await sender.send(FrameType.STREAM, bytes(100), endpoint.channel)
        assert len((await receiver.frame())[2]) == 100
        await sender.send(FrameType.STREAM, b"x", endpoint.channel)
        assert await endpoint.closed_after_others() == "credit-exceeded"
        kind, channel, payload = await ends.gateway.frame()
        while kind is not FrameType.CLOSE:
            kind, channel, payload = await ends.gateway.frame()
        assert (channel, parse_close_untrusted(payload).code) == (endpoint.channel, "credit-exceeded")
        await ends.gateway.send(FrameType.STREAM, b"unharmed", neighbour.channel)
        assert (await neighbour.frame())[2] == b"unharmed"

    play(scenario)


def test_datagrams_beyond_the_window_are_dropped(play: Callable[[Scenario], None]) -> None:
    """And pass again when the receiver has granted. What it never got does not count."""

    async def scenario(ends: Ends) -> None:
        endpoint = await ends.endpoint()
        for n in range(DATAGRAM_WINDOW // FRAME_PAYLOAD_MAX):
            await endpoint.send(FrameType.DATAGRAMS, bytes([n]) * FRAME_PAYLOAD_MAX)
            assert (await ends.gateway.frame())[2][:1] == bytes([n])
        await endpoint.send(FrameType.DATAGRAMS, b"too much")
        await endpoint.send(FrameType.STREAM, b"another window")
        assert await ends.gateway.frame() == (FrameType.STREAM, endpoint.channel, b"another window")
        await ends.gateway.send(FrameType.CREDIT, (8).to_bytes(4, "big"), endpoint.channel, FLAG_DATAGRAMS)
        assert (await endpoint.frame())[0] is FrameType.CREDIT
        await endpoint.send(FrameType.DATAGRAMS, b"8 bytes.")
        assert (await ends.gateway.frame())[2] == b"8 bytes."

    play(scenario)


def test_a_flood_of_bare_frames_ends(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        endpoint = await ends.endpoint()

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):  # the relay hangs up on it
                for _ in range(50_000):
                    await endpoint.send(FrameType.PING)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flood())
            assert await endpoint.closed_after_others() == "flooding"
        kind, channel, payload = await ends.gateway.frame()
        assert (kind, channel, parse_close_untrusted(payload).code) == (
            FrameType.CLOSE,
            endpoint.channel,
            "flooding",
        )

    play(scenario)


def test_a_session_has_one_channel_the_newest(play: Callable[[Scenario], None]) -> None:
    """An endpoint that comes back finds its way past the socket that it lost, and none holds a hundred."""

    async def scenario(ends: Ends) -> None:
        lost = await ends.endpoint()
        again = await ends._open(lost.grant)
        kind, again.channel, _ = await again.frame()
        assert kind is FrameType.OPENED
        assert await lost.closed() == "replaced"
        assert (await ends.gateway.frame())[:2] == (FrameType.CLOSE, lost.channel)
        assert (await ends.gateway.frame())[:2] == (FrameType.OPEN, again.channel)

    play(scenario)


def test_a_renewal_waits_for_a_control_plane_that_is_away(
    play: Callable[[Scenario], None], host: FabricHost, endpoint: Identity
) -> None:
    async def scenario(ends: Ends) -> None:
        socket = await ends.endpoint()
        renewed = await ends.grant(endpoint, renews=socket.grant.session)
        await asyncio.to_thread(host.fabric.kill, "control")
        await socket.send(FrameType.RENEW, renewed.token.encode(), 0)
        await socket.send(FrameType.PING, b"alive?")
        assert (await socket.frame())[0] is FrameType.PONG
        await socket.send(FrameType.STREAM, b"meanwhile")
        assert (await ends.gateway.frame())[2] == b"meanwhile"
        await asyncio.to_thread(host.fabric.restart, "control")
        assert (await socket.frame())[0] is FrameType.RENEWED

    play(scenario)


def test_who_is_let_in(play: Callable[[Scenario], None], endpoint: Identity, gateway: Identity) -> None:
    async def scenario(ends: Ends) -> None:
        grant = await ends.grant(endpoint)
        url = grant.gateways[0].relay_url
        other = url.replace(gateway.node, "gw-aaaaaaaaaaaaaaaa")
        assert await ends.refused(url, "") == 401
        assert await ends.refused(url, "acme." + "A" * 43) == 401
        assert await ends.refused(url, "nobody." + grant.token.partition(".")[2]) in (401, 404)
        assert await ends.refused(url, "../" + grant.token) == 401
        assert await ends.refused(other, grant.token) == 401
        async with client_of(endpoint) as client:
            await client.end_session(grant.session)
        assert await ends.refused(url, grant.token) == 401

    play(scenario)


def test_without_a_gateway_there_is_no_channel(play: Callable[[Scenario], None], endpoint: Identity) -> None:
    async def scenario(ends: Ends) -> None:
        grant = await ends.grant(endpoint)
        await ends.gateway.hang_up()
        async with asyncio.timeout(WAIT_S):
            assert await ends.refused(grant.gateways[0].relay_url, grant.token) == 503

    play(scenario)


def test_a_gateway_that_goes_or_comes_again_ends_all_channels(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        first, old = await ends.endpoint(), ends.gateway
        ends.gateway = await ends.connect_gateway()
        assert await first.closed() == "replaced"
        assert await old.closed() == "replaced"
        second = await ends.endpoint()
        await ends.gateway.hang_up()
        assert await second.closed() == "gateway-gone"

    play(scenario)


def test_an_endpoint_that_hangs_up_is_reported(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        endpoint = await ends.endpoint()
        await endpoint.hang_up()
        kind, channel, payload = await ends.gateway.frame()
        assert (kind, channel, parse_close_untrusted(payload).code) == (
            FrameType.CLOSE,
            endpoint.channel,
            "endpoint-gone",
        )

    play(scenario)


@pytest.mark.parametrize(("code", "answer"), [(1000, 1000), (1001, 1000), (1011, 1000), (3000, 3000), (4999, 4999)])
def test_a_close_is_answered_with_a_code_that_may_be_sent(
    play: Callable[[Scenario], None], code: int, answer: int
) -> None:
    async def scenario(ends: Ends) -> None:
        endpoint = await ends.endpoint()
        assert await endpoint.hang_up(code) == answer
        assert (await ends.gateway.frame())[:2] == (FrameType.CLOSE, endpoint.channel)

    play(scenario)


def test_a_connection_that_breaks_ends_its_own_channel_only(play: Callable[[Scenario], None]) -> None:
    async def scenario(ends: Ends) -> None:
        neighbour, endpoint = await ends.endpoint(), await ends.endpoint()
        endpoint.break_off()
        kind, channel, payload = await ends.gateway.frame()
        assert (kind, channel, parse_close_untrusted(payload).code) == (
            FrameType.CLOSE,
            endpoint.channel,
            "endpoint-gone",
        )
        await ends.gateway.send(FrameType.STREAM, b"unharmed", neighbour.channel)
        assert (await neighbour.frame())[2] == b"unharmed"

    play(scenario)


def test_a_session_is_renewed_by_its_own_token_only(play: Callable[[Scenario], None], endpoint: Identity) -> None:
    async def scenario(ends: Ends) -> None:
        socket = await ends.endpoint()
        renewed = await ends.grant(endpoint, renews=socket.grant.session)
        await socket.send(FrameType.RENEW, renewed.token.encode(), 0)
        assert (await socket.frame())[0] is FrameType.RENEWED
        stranger = await ends.grant(endpoint)
        await socket.send(FrameType.RENEW, stranger.token.encode(), 0)
        assert await socket.closed() == "unauthorized"

    play(scenario)


def test_idle_objects_are_evicted_and_their_sockets_live_on(
    play: Callable[[Scenario], None], host: FabricHost, endpoint: Identity
) -> None:
    """Hibernation: both objects are forgotten in the silence, and made anew by the next frame and the next change."""

    async def scenario(ends: Ends) -> None:
        socket = await ends.endpoint()
        async with client_of(endpoint) as client, client.events() as events:
            assert isinstance(await anext(events), Welcome)
            await asyncio.sleep(_EVICTED_AFTER_S)  # the silence is what is tested
            await socket.send(FrameType.STREAM, b"after the silence")
            assert await ends.gateway.frame() == (FrameType.STREAM, socket.channel, b"after the silence")
            await ends.gateway.send(FrameType.STREAM, b"and back", socket.channel)
            assert (await socket.frame())[2] == b"and back"
            vni = {"name": "lab", "prefixes": ["10.9.0.0/24"]}
            await asyncio.to_thread(host.admin, "POST", f"/{TENANT}/vnis", vni)
            member = f"/{TENANT}/vnis/lab/members/{endpoint.node}"  # only nodes that see a change get a push
            await asyncio.to_thread(host.admin, "PUT", member, {})
            async with asyncio.timeout(WAIT_S):
                while not isinstance(await anext(events), NetworkChanged):
                    continue  # the log's head may be pushed first
        third = await ends.endpoint()
        assert third.channel > socket.channel

    play(scenario)


def test_a_revoked_device_is_cut_at_the_relay_within_a_second(
    play: Callable[[Scenario], None], host: FabricHost, disposable: Identity, gateway: Identity
) -> None:
    async def scenario(ends: Ends) -> None:
        ends._identities = gateway, disposable
        socket = await ends.endpoint()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.to_thread(host.admin, "DELETE", f"/{TENANT}/devices/{disposable.node}")
        assert await socket.closed() == "revoked"
        assert loop.time() - began < 1.0
        assert await ends.refused(socket.grant.gateways[0].relay_url, socket.grant.token) == 401

    play(scenario)


def test_a_relay_that_was_killed_serves_again(
    play: Callable[[Scenario], None], host: FabricHost, endpoint: Identity
) -> None:
    """Channel numbers are on disk: none is given twice."""
    last = 0

    async def before(ends: Ends) -> None:
        nonlocal last
        last = (await ends.endpoint()).channel

    async def after(ends: Ends) -> None:
        assert (await ends.endpoint()).channel > last

    play(before)
    host.fabric.kill("relay")
    host.fabric.restart("relay")
    play(after)
