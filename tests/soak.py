"""Two hosts under everything at once: bulk both ways, short connections without end, a new key every so often.

Every byte that arrives is compared with the one that was sent: a stream's content follows from its length alone.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from two_hosts import Host

BULK_PORT, CHURN_PORT = 5001, 5002
_BLOCK = 1 << 16
_BODY = random.Random(1).randbytes(_BLOCK - 8)
_SHORT_MAX = 1 << 16
_EPOCHS_KEPT = 3
_JOIN_S = 60
# Datagrams that neither end may ever see while keys change hands in order.
FAULTS = ("drop_auth", "drop_replay", "drop_unknown_epoch", "drop_bad_segment", "drop_no_key")


class Soak:
    """tally: bytes carried, connections, rekeys; lost and doubled bytes; altered: blocks and short messages that are not
    what was sent; failed: connections that broke."""

    def __init__(self, a: Host, b: Host) -> None:
        self._hosts = a, b
        self._epochs = itertools.count(1)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards the tally
        self._tally: Counter[str] = Counter()

    def run(self, enough: Callable[[Counter[str]], bool], rekey_every_s: float) -> Counter[str]:
        """Until it is enough, which is asked after each rekey."""
        a, b = self._hosts
        with (
            closing(_listen(a, BULK_PORT)) as at_a,
            closing(_listen(b, BULK_PORT)) as at_b,
            closing(_listen(b, CHURN_PORT)) as short,
        ):
            works = [(self._bulk, a, b, at_b), (self._bulk, b, a, at_a), (self._churn, a, b, short)]
            threads = [threading.Thread(target=self._work, args=work) for work in works]
            for thread in threads:
                thread.start()
            while not self._stop.wait(rekey_every_s):
                self._rekey()
                if enough(self.tally()):
                    self._stop.set()
            for thread in threads:
                thread.join(_JOIN_S)
                self._count(failed=thread.is_alive())
        for host in self._hosts:
            counters = host.dataplane.counters()
            self._count(**{name: counters[name] for name in FAULTS})
        return self.tally()

    def tally(self) -> Counter[str]:
        with self._lock:
            return self._tally.copy()

    def _count(self, **numbers: int) -> None:
        with self._lock:
            self._tally.update(numbers)

    def _work(self, work: Callable[[Host, Host, socket.socket], None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except OSError:
            self._count(failed=1)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _rekey(self) -> None:
        """As the tunnel machines do it: both can receive under an epoch before either sends under it."""
        epoch = next(self._epochs)
        for host in self._hosts:
            host.install_receive(epoch)
        for host in self._hosts:
            host.install_transmit(epoch)
        if epoch >= _EPOCHS_KEPT:
            for host in self._hosts:
                host.dataplane.retire_receive(epoch - _EPOCHS_KEPT, [host.session])
        self._count(rekeys=1)

    # -- bulk ----------------------------------------------------------------------------------------------------------

    def _bulk(self, source: Host, target: Host, listener: socket.socket) -> None:
        with closing(source.socket()) as sending:
            sending.connect((target.address(), BULK_PORT))
            receiving, _ = listener.accept()
            with closing(receiving):
                receiving.settimeout(_JOIN_S)
                sent: list[int] = []
                sender = threading.Thread(target=self._send_blocks, args=(sending, sent))
                sender.start()
                received = self._receive_blocks(receiving)
                sender.join(_JOIN_S)
        self._count(lost=max(0, sum(sent) - received), doubled=max(0, received - sum(sent)))

    def _send_blocks(self, sending: socket.socket, sent: list[int]) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                break
            sending.sendall(_block(number))
            sent.append(_BLOCK)
        sending.shutdown(socket.SHUT_WR)

    def _receive_blocks(self, receiving: socket.socket) -> int:
        received, buffer = 0, bytearray(_BLOCK)
        for number in itertools.count():
            view = memoryview(buffer)
            while view and (size := receiving.recv_into(view)):
                view = view[size:]
            received += _BLOCK - len(view)
            if view:
                self._count(altered=len(view) < _BLOCK)  # a block that breaks off
                return received
            self._count(carried=_BLOCK, altered=buffer != _block(number))
        raise AssertionError("unreachable")

    # -- churn ---------------------------------------------------------------------------------------------------------

    def _churn(self, source: Host, target: Host, listener: socket.socket) -> None:
        """One short connection after the other: a message there, its digest back."""
        server = threading.Thread(target=self._answer, args=(listener,))
        server.start()
        sizes = random.Random(2)
        while not self._stop.is_set():
            message = _BODY[: sizes.randrange(1, _SHORT_MAX - 8)]
            try:
                with closing(source.socket()) as client:
                    client.connect((target.address(), CHURN_PORT))
                    client.sendall(message)
                    client.shutdown(socket.SHUT_WR)
                    digest = client.recv(64, socket.MSG_WAITALL)
                self._count(connections=1, carried=len(message), altered=digest != hashlib.sha512(message).digest())
            except OSError:
                self._count(failed=1)
        listener.shutdown(socket.SHUT_RDWR)
        server.join(_JOIN_S)

    def _answer(self, listener: socket.socket) -> None:
        listener.settimeout(None)
        with suppress(OSError):  # the listener was shut down: it is over
            while True:
                connection, _ = listener.accept()
                with closing(connection), suppress(OSError):
                    connection.settimeout(_JOIN_S)
                    digest = hashlib.sha512()
                    while data := connection.recv(1 << 16):
                        digest.update(data)
                    connection.sendall(digest.digest())


def _listen(host: Host, port: int) -> socket.socket:
    listener = host.socket()
    listener.bind((host.address(), port))
    listener.listen()
    return listener


def _block(number: int) -> bytes:
    return number.to_bytes(8) + _BODY
