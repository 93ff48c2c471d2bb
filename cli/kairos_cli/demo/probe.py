"""Small questions asked from within a host, each answered as one line of JSON: `python -m kairos_cli.demo.probe`.

http URL            {"status": 200, "bytes": 5, "ms": 1.9}
tcp HOST PORT       {"outcome": "connected" | "refused" | "prohibited" | "timeout", "ms": 0.4}
stream HOST PORT    {"until": 1780000000.1}: when (Unix seconds) a connection that sends all the time was cut; null: it was not
reply HOST SECONDS  {"at": 12.3, "rtt_ms": 0.2}: when (CLOCK_MONOTONIC) the first echo reply came; null: none
"""

from __future__ import annotations

import errno
import json
import select
import socket
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

_TIMEOUT_S = 5.0
_ECHO_EACH_S = 0.003
_STREAM_S, _STREAM_EACH_S = 60.0, 0.02
OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "prohibited",
    errno.EACCES: "prohibited",
    errno.ENETUNREACH: "unreachable",
}


def http(url: str) -> dict[str, object]:
    started = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return {"status": answer.status, "bytes": len(answer.read()), "ms": _ms_since(started)}
    except (urllib.error.URLError, OSError) as error:
        return {"status": 0, "error": str(error), "ms": _ms_since(started)}


def tcp(host: str, port: str) -> dict[str, object]:
    started = time.monotonic()
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()
        outcome = "connected"
    except TimeoutError:
        outcome = "timeout"
    except OSError as error:
        outcome = OUTCOMES.get(error.errno or 0, str(error))
    return {"outcome": outcome, "ms": _ms_since(started)}


def stream(host: str, port: str) -> dict[str, object]:
    """Sends every 20 ms. Prints a line as soon as it is connected."""
    with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as connection:
        print(json.dumps({"connected": True}), flush=True)
        deadline = time.monotonic() + _STREAM_S
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"x")
            except OSError:
                return {"until": time.time()}
            select.select([], [], [], _STREAM_EACH_S)
    return {"until": None}


def reply(host: str, seconds: str) -> dict[str, object]:
    """Echo requests every 3 ms until the first reply; a send may fail while there is no route yet."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setblocking(False)
        sent: dict[int, float] = {}
        deadline = time.monotonic() + float(seconds)
        sequence = 0
        while (now := time.monotonic()) < deadline:
            sequence = (sequence + 1) & 0xFFFF
            try:
                raw.sendto(echo_request(8, _IDENTITY, sequence), (host, 0))
                sent[sequence] = now
            except OSError:
                pass
            if (came := _echo_reply(raw, sent, now + _ECHO_EACH_S)) is not None:
                return {"at": came[0], "rtt_ms": came[1] * 1000}
    return {"at": None, "rtt_ms": None}


_IDENTITY = 0x4B52


def echo_request(kind: int, identity: int, sequence: int) -> bytes:
    """kind: 8, or 128 for ICMPv6, whose checksum the kernel makes. 12 bytes of data, so that no echo is a runt."""
    body = bytes(12)
    head = struct.pack("!BBHHH", kind, 0, 0, identity, sequence)
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", kind, 0, ~total & 0xFFFF, identity, sequence) + body


def _echo_reply(raw: socket.socket, sent: dict[int, float], until: float) -> tuple[float, float] | None:
    """(when, round trip in seconds) of a reply to one of ours, read before `until`."""
    while (left := until - time.monotonic()) > 0:
        if not select.select([raw], [], [], left)[0]:
            return None
        packet = raw.recv(2048)
        header = (packet[0] & 15) * 4
        kind, _, _, identity, sequence = struct.unpack_from("!BBHHH", packet, header)
        if kind == 0 and identity == _IDENTITY and sequence in sent:
            now = time.monotonic()
            return now, now - sent[sequence]
    return None


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 2)


QUESTIONS: dict[str, Callable[..., dict[str, object]]] = {"http": http, "tcp": tcp, "stream": stream, "reply": reply}

if __name__ == "__main__":
    print(json.dumps(QUESTIONS[sys.argv[1]](*sys.argv[2:])))
