"""T2 against relays that refuse, fall silent or die during the upgrade; what a live one may do is in tests/hostile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from kairos_dataplane import load
from kairos_node.relay_link import ChannelUser, RelayChannel, RelayLink

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
PROBLEM = (
    b'{"type":"urn:kairos:problem:gateway-unavailable","title":"The gateway is not connected","status":503,'
    b'"detail":"gw-a is not at the relay"}'
)


def nobody(_channel: RelayChannel) -> ChannelUser:
    raise AssertionError("no channel was opened")


def refusal(answer: Answer) -> str:
    """What opening a link says when the relay answers the upgrade like that."""

    async def story() -> str:
        served = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            served.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        dataplane = load("pure")
        try:
            with pytest.raises(ConnectionError) as error:
                await RelayLink.open(f"http://127.0.0.1:{port}/v1/relay/gw-a", "token", dataplane, nobody)
            await served.wait()
        finally:
            server.close()
            dataplane.close()
        return str(error.value)

    return asyncio.run(story())


def http(status: str, body: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return answer


async def silence(writer: asyncio.StreamWriter) -> None:
    """For longer than it is waited for."""
    await asyncio.sleep(1.0)


async def death(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def test_a_refusal_is_told_in_the_relays_own_words() -> None:
    said = refusal(http("503 Service Unavailable", PROBLEM))
    assert said.endswith("The gateway is not connected: gw-a is not at the relay")


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"title":', b"\xff\xfe", b'{"title":"\xff"}', b"[" * 50_000])
def test_a_refusal_without_sense_is_still_a_connection_error(body: bytes) -> None:
    assert refusal(http("502 Bad Gateway", body)).startswith("relay http://127.0.0.1")


def test_what_is_no_web_server_at_all_is_a_connection_error() -> None:
    async def noise(writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(range(256)) * 4 + b"\r\n\r\n")
        await writer.drain()

    assert refusal(noise)


@pytest.mark.parametrize("answer", [silence, death])
def test_a_relay_that_does_not_finish_the_upgrade_is_given_up(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos_node.relay_link._OPEN_WAIT_S", 0.2)
    assert refusal(answer)
