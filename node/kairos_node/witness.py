"""Who opened a socket of this host, for a process in a user namespace of its own.

From in there the kernel shows no other program's files. So a child stays outside and looks. It is asked by a socket, and ends
when that closes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from ipaddress import ip_address

import msgspec

from kairos.errors import Refused
from kairos.policy.input import Application
from kairos_node.application import Address, Applications, user_of

_MESSAGE_MAX = 8192
_TCP = 6
End = tuple[Address, int]


class _Question(msgspec.Struct, array_like=True):
    near: tuple[str, int]
    far: tuple[str, int]


class Opener(msgspec.Struct, array_like=True):
    """uid: of the user, as the host has it; application: None where its program is in doubt."""

    uid: int
    application: Application | None


class Witness:
    """Made by `start`, before there is a second thread. A context manager."""

    def __init__(self, asked: socket.socket, child: int) -> None:
        self._asked = asked
        self._child = child
        self._turn = asyncio.Lock()

    @classmethod
    def start(cls) -> Witness:
        """Raises OSError."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            ours.close()
            _look(its)
        its.close()
        ours.setblocking(False)
        return cls(ours, child)

    def close(self) -> None:
        self._asked.close()
        os.waitpid(self._child, 0)

    async def opener(self, near: End, far: End) -> Opener | None:
        """Of the TCP connection from `near` to `far`, both on this host; None on any doubt. Raises Refused when the child is gone."""
        loop = asyncio.get_running_loop()
        question = _Question((str(near[0]), near[1]), (str(far[0]), far[1]))
        async with self._turn:
            try:
                await loop.sock_sendall(self._asked, msgspec.msgpack.encode(question))
                answer = await loop.sock_recv(self._asked, _MESSAGE_MAX)
            except OSError:
                answer = b""
        if not answer:
            raise Refused(
                "no-witness", "the process that tells whose programs come in has ended; start the proxy again"
            )
        return msgspec.msgpack.decode(answer, type=Opener | None)


def _look(asked: socket.socket) -> None:
    """The child's life."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of the terminal; our parent ends us
        signal.signal(number, signal.SIG_IGN)
    applications = Applications()
    try:
        while data := asked.recv(_MESSAGE_MAX):
            question = msgspec.msgpack.decode(data, type=_Question)
            near, far = ((ip_address(end[0]), end[1]) for end in (question.near, question.far))
            uid = user_of(_TCP, near, far)
            opener = None if uid is None else Opener(uid, applications.of(_TCP, near, far))
            asked.send(msgspec.msgpack.encode(opener))
    finally:
        os._exit(0)  # nothing of the parent's is ours to tidy
