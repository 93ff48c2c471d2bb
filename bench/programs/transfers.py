"""Many TCP connections that stay open, and transfers that go over all of them in turn.

    python -m bench.programs.transfers server
    python -m bench.programs.transfers client ADDRESS CONNECTIONS SECONDS        prints bytes a second

A transfer is 64 KiB there and one byte back; 32 are under way at a time, each on the connection that rested longest.
"""

from __future__ import annotations

import resource
import select
import socket
import sys
import time
from collections import deque

_PORT = 5300
_TRANSFER, _AT_A_TIME, _CONNECTING = 64 << 10, 32, 64
_CONNECT_S = 30.0


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1] == "server":
        _serve()
    else:
        connections = _connect(sys.argv[2], int(sys.argv[3]))
        print(_transfer(connections, float(sys.argv[4])))


def _serve() -> None:
    listener = socket.create_server(("0.0.0.0", _PORT), backlog=4096)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_now: dict[int, tuple[socket.socket, int]] = {}  # with the bytes still to come of its transfer
    into = memoryview(bytearray(_TRANSFER))
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                connection, _address = listener.accept()
                open_now[connection.fileno()] = connection, _TRANSFER
                poll.register(connection, select.EPOLLIN)
                continue
            connection, left = open_now[descriptor]
            try:
                got = connection.recv_into(into, left)
                if got == left:
                    connection.send(b"+")
            except OSError:
                got = 0
            if got == 0:
                open_now.pop(descriptor)[0].close()
            else:
                open_now[descriptor] = connection, left - got or _TRANSFER


def _connect(address: str, count: int) -> list[socket.socket]:
    """Raises TimeoutError unless all stand within thirty seconds."""
    poll, done = select.epoll(), list[socket.socket]()
    pending: dict[int, socket.socket] = {}
    deadline = time.monotonic() + _CONNECT_S
    while len(done) < count:
        while len(pending) < min(_CONNECTING, count - len(done)):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((address, _PORT))
            pending[connection.fileno()] = connection
            poll.register(connection, select.EPOLLOUT)
        for descriptor, _ in poll.poll(1):
            poll.unregister(descriptor)
            connection = pending.pop(descriptor)
            if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "connect")
            done.append(connection)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(done)} of {count} connections after {_CONNECT_S:.0f} s")
    return done


def _transfer(connections: list[socket.socket], seconds: float) -> float:
    """Bytes a second that were acknowledged."""
    by_descriptor = {each.fileno(): each for each in connections}
    resting = deque(by_descriptor)
    left: dict[int, int] = {}
    data = memoryview(bytes(_TRANSFER))
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, 0)
    transfers, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < seconds:
        while len(left) < min(_AT_A_TIME, len(connections)):
            descriptor = resting.popleft()
            left[descriptor] = _TRANSFER
            poll.modify(descriptor, select.EPOLLOUT)
        for descriptor, _ in poll.poll(0.1):
            connection = by_descriptor[descriptor]
            if left[descriptor]:
                left[descriptor] -= connection.send(data[: left[descriptor]])
                if not left[descriptor]:
                    poll.modify(descriptor, select.EPOLLIN)
            elif connection.recv(1):
                transfers += 1
                del left[descriptor]
                poll.modify(descriptor, 0)
                resting.append(descriptor)
            else:
                raise ConnectionError("the server closed a connection")
    return transfers * _TRANSFER / took


if __name__ == "__main__":
    main()
