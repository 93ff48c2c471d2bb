"""A stream between two sockets: order, ends and pressure."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from kairos_agent.proxy.negotiation import Target
from kairos_agent.proxy.stream import Stream, abort

HERE = (ip_address("127.0.0.1"), 1)
PATIENCE_S = 60.0


@dataclass
class Ends:
    """program and service, each at its end; what is between them is the stream."""

    program: socket.socket
    service: socket.socket
    stream: Stream


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@asynccontextmanager
async def carried(early: bytes = b"") -> AsyncIterator[Ends]:
    program, client = pair()
    inner, service = pair()
    task = asyncio.current_task()
    assert task is not None
    stream = Stream(Target(HERE[0], 1), 1, HERE, HERE, client, inner, None, task)

    async def run() -> None:
        try:
            await stream.carry(early)
        except (OSError, asyncio.CancelledError):
            abort(client)
            abort(inner)
            raise
        client.close()
        inner.close()

    stream.task = asyncio.ensure_future(run())
    try:
        yield Ends(program, service, stream)
    finally:
        stream.task.cancel()
        await asyncio.gather(stream.task, return_exceptions=True)
        program.close()
        service.close()


def lived(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await story()

    asyncio.run(bounded())


async def all_of(sock: socket.socket) -> bytes:
    loop, came = asyncio.get_running_loop(), bytearray()
    while piece := await loop.sock_recv(sock, 65536):
        came += piece
    return bytes(came)


def test_one_side_may_end_and_still_listen() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with carried(early=b"first ") as ends:
            await loop.sock_sendall(ends.program, b"question")
            ends.program.shutdown(socket.SHUT_WR)
            assert await all_of(ends.service) == b"first question"
            await loop.sock_sendall(ends.service, b"answer")
            ends.service.close()
            assert await all_of(ends.program) == b"answer"
            await ends.stream.task
            assert ends.stream.moved == [14, 6]

    lived(story)


def test_who_does_not_read_holds_back_who_writes() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with carried() as ends:
            writing = asyncio.ensure_future(loop.sock_sendall(ends.program, bytes(40 * 1024 * 1024)))
            await asyncio.wait([writing], timeout=1.0)
            assert not writing.done()  # the kernel's buffers hold some of it, and nothing else holds any
            moved = ends.stream.moved[0]
            writing.cancel()
            ends.program.close()
            assert len(await all_of(ends.service)) >= moved

    lived(story)


def test_a_cut_is_no_end() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with carried() as ends:
            await loop.sock_sendall(ends.program, b"x")
            assert await loop.sock_recv(ends.service, 9) == b"x"
            ends.stream.task.cancel()
            for end in (ends.program, ends.service):
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(end, 9)

    lived(story)


def test_a_reset_on_one_side_is_one_on_the_other() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with carried() as ends:
            abort(ends.service)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(ends.program, 9)

    lived(story)
