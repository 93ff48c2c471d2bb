"""Tries cells of the matrix from one place, all at once: `python -m kairos_cli.demo.reach`.

Reads [{"number": 20001, "protocol": "tcp", "address": "10.7.0.12", "name": "bob@office"}, ...] and prints {"20001": "reached", ...}.
Who answers with another name has not been reached: `answered by NAME`. Silence is asked three times.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kairos_cli.demo.matrix import REACHED
from kairos_cli.demo.probe import OUTCOMES, echo_request
from kairos_cli.demo.segments import PORT

_ATTEMPTS, _PATIENCE_S = 3, 1.5
_ECHO = {socket.AF_INET: (socket.IPPROTO_ICMP, 8, 0), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128, 129)}


def tcp(number: int, address: str) -> str:
    """The name of who answers."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.settimeout(_PATIENCE_S)
        stream.bind(("", number))
        stream.connect((address, PORT))
        return stream.recv(256).decode()


def udp(number: int, address: str) -> str:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(_PATIENCE_S)
        datagrams.bind(("", number))
        datagrams.connect((address, PORT))
        datagrams.send(b"who are you?")
        return datagrams.recv(256).decode()


def icmp(number: int, address: str) -> str:
    """Empty: an echo has no name, but nobody else has this address."""
    family = _family(address)
    protocol, request, reply = _ECHO[family]
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.connect((address, 0))
        raw.send(echo_request(request, number, 1))
        deadline = time.monotonic() + _PATIENCE_S
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            packet = raw.recv(2048)
            at = (packet[0] & 15) * 4 if family == socket.AF_INET else 0
            if packet[at] == reply and packet[at + 4 : at + 6] == number.to_bytes(2):
                return ""
    raise TimeoutError


_ASK: dict[str, Callable[[int, str], str]] = {"tcp": tcp, "udp": udp, "icmp": icmp}


def outcome(cell: dict[str, Any]) -> str:
    said = "silence"
    for _ in range(_ATTEMPTS):
        try:
            name = _ASK[cell["protocol"]](cell["number"], cell["address"])
            return REACHED if name in ("", cell["name"]) else f"answered by {name}"
        except TimeoutError:
            said = "silence"
        except OSError as error:
            return OUTCOMES.get(error.errno or 0, str(error))
    return said


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    cells = json.load(sys.stdin)
    with ThreadPoolExecutor(max_workers=len(cells)) as threads:
        outcomes = list(threads.map(outcome, cells))
    print(json.dumps({cell["number"]: said for cell, said in zip(cells, outcomes, strict=True)}))
