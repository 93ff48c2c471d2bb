"""TCP streams, straight or through a SOCKS5 proxy.

    python -m bench.programs.streams serve
    python -m bench.programs.streams fetch ADDRESS PROXY_PORT STREAMS BYTES       prints seconds; PROXY_PORT 0: no proxy
    python -m bench.programs.streams first ADDRESS PROXY_PORT CONNECTIONS         prints seconds to the first byte of each

Who connects says in eight bytes how many it wants.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import threading
import time

PORT = 8080
_PIECE = bytes(1 << 20)
_SIZE = struct.Struct("!Q")
_REPLY_BYTES = 12  # the greeting's and the request's


def main() -> None:
    verb, *rest = sys.argv[1:]
    if verb == "serve":
        _serve()
    elif verb == "fetch":
        address, proxy, streams, size = rest
        print(_fetch(address, int(proxy), int(streams), int(size)))
    else:
        address, proxy, count = rest
        print(*(_first(address, int(proxy)) for _ in range(int(count))))


def _serve() -> None:
    listener = socket.create_server(("0.0.0.0", PORT), backlog=1024)
    while True:
        threading.Thread(target=_send, args=(listener.accept()[0],), daemon=True).start()


def _send(connection: socket.socket) -> None:
    with connection:
        left = _SIZE.unpack(connection.recv(_SIZE.size, socket.MSG_WAITALL))[0]
        while left:
            left -= connection.send(memoryview(_PIECE)[: min(left, len(_PIECE))])


def _fetch(address: str, proxy: int, streams: int, size: int) -> float:
    """All at once, each so many bytes."""
    threads = [threading.Thread(target=_take, args=(address, proxy, size)) for _ in range(streams)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _take(address: str, proxy: int, size: int) -> None:
    into = bytearray(1 << 18)
    with _connected(address, proxy) as connection:
        connection.sendall(_SIZE.pack(size))
        while size:
            got = connection.recv_into(into)
            if not got:
                raise SystemExit("the stream broke")
            size -= got


def _first(address: str, proxy: int) -> float:
    began = time.perf_counter()
    _take(address, proxy, 1)
    return time.perf_counter() - began


def _connected(address: str, proxy: int) -> socket.socket:
    if not proxy:
        return socket.create_connection((address, PORT))
    connection = socket.create_connection(("127.0.0.1", proxy))
    connection.sendall(b"\5\1\0" + b"\5\1\0\1" + ipaddress.ip_address(address).packed + PORT.to_bytes(2))
    reply = connection.recv(_REPLY_BYTES, socket.MSG_WAITALL)
    if reply[2:4] != b"\5\0":
        raise SystemExit(f"the proxy said {reply.hex()}")
    return connection


if __name__ == "__main__":
    main()
