"""What a daemon tells Prometheus: text format 0.0.4, over HTTP on loopback, off by default (docs/operations.md lists the names)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import kairos
from kairos.errors import Refused

_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_REQUEST_S = 5.0
_REQUEST_MAX = 8 * 1024
_Labels = Mapping[str, str]


class Histogram:
    """Seconds in buckets, cumulative when they are told."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self._sum += seconds

    @property
    def total(self) -> tuple[int, float]:
        """How many, and the seconds of all."""
        return sum(self._counts), self._sum

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began)

    def samples(self, name: str, labels: _Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self._counts, strict=True):
            total += count
            yield _sample(f"{name}_bucket", {**labels, "le": bound}, total)
        yield _sample(f"{name}_sum", labels, round(self._sum, 6))
        yield _sample(f"{name}_count", labels, total)


class Timings:
    """What takes time in a daemon. decisions: by decision point; handshakes: T2 to T6."""

    def __init__(self) -> None:
        self.decisions: dict[str, Histogram] = {}
        self.handshakes = Histogram()

    def decision(self, point: str) -> contextlib.AbstractContextManager[None]:
        return self.decisions.setdefault(point, Histogram()).timed()


def exposition(status: Mapping[str, Any], timings: Timings) -> str:
    """status: what the local API answers to `status`."""
    info = {"version": kairos.__version__, **{name: str(status[name]) for name in ("node", "role", "tenant", "suite")}}
    tunnels = [each for each in status["tunnels"] if each["state"] == "established"]
    paths = {path: sum(each["path"] == path for each in tunnels) for path in ("relay", "direct")}
    counters: Mapping[str, int] = status["counters"]
    drops = {name.removeprefix("drop_"): value for name, value in counters.items() if name.startswith("drop_")}
    lines = [
        *_family("kairos_info", "gauge", "This node.", [(info, 1)]),
        *_family("kairos_fabric_connected", "gauge", "The events socket is open.", [({}, int(status["connected"]))]),
        *_family("kairos_clock_ahead_seconds", "gauge", "Of the fabric's clock.", [({}, status["clock_ahead_s"])]),
        *_family("kairos_policy_version", "gauge", "In force; 0: none.", [({}, status["policy_version"])]),
        *_family("kairos_certificate_end_seconds", "gauge", "Unix time.", [({}, status["certificate_ends"])]),
        *_family("kairos_audit_waiting", "gauge", "Events not delivered yet.", [({}, status["audit_waiting"])]),
        *_family(
            "kairos_audit_lost_total",
            "counter",
            "Events dropped, by kind.",
            [({"kind": kind}, count) for kind, count in sorted(status["audit_lost"].items())],
        ),
        *_family("kairos_unwritten_files", "gauge", "Which the disk did not take.", [({}, len(status["unwritten"]))]),
        *_family("kairos_tunnels", "gauge", "Established.", [({"path": path}, paths[path]) for path in paths]),
        *_family(
            "kairos_drops_total",
            "counter",
            "Datagrams and packets dropped.",
            [({"reason": name}, value) for name, value in drops.items()],
        ),
    ]
    for name, value in counters.items():
        if not name.startswith("drop_"):
            lines += _family(f"kairos_{name}_total", "counter", "Of the data plane.", [({}, value)])
    lines += _head("kairos_decision_seconds", "histogram", "One policy decision.")
    for point, histogram in sorted(timings.decisions.items()):
        lines += histogram.samples("kairos_decision_seconds", {"point": point})
    lines += _head("kairos_handshake_seconds", "histogram", "A tunnel's set-up, T2 to T6.")
    lines += timings.handshakes.samples("kairos_handshake_seconds", {})
    return "\n".join(lines) + "\n"


def _family(
    name: str, kind: Literal["gauge", "counter"], text: str, samples: Iterable[tuple[_Labels, float]]
) -> list[str]:
    return [*_head(name, kind, text), *(_sample(name, labels, value) for labels, value in samples)]


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(name: str, labels: _Labels, value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsServer:
    """Answers GET /metrics. at: `127.0.0.1:9464`, a loopback address, for what it tells is not for strangers; empty: off."""

    def __init__(self, at: str, tell: Callable[[], Awaitable[str]]) -> None:
        """Raises Refused."""
        self._at = _loopback(at) if at else None
        self._tell = tell
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> MetricsServer:
        if self._at is not None:
            try:
                self._server = await asyncio.start_server(self._serve, *self._at, limit=_REQUEST_MAX)
            except OSError as error:
                raise Refused("bad-config", f"metrics: {error.strerror or error}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer_untrusted(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # nobody who measures
        finally:
            writer.close()

    async def _answer_untrusted(self, head: bytes) -> bytes:
        known = head.split(b"\r\n")[0].split(b" ")[:2] == [b"GET", b"/metrics"]
        status, text = ("200 OK", await self._tell()) if known else ("404 Not Found", "GET /metrics\n")
        body = text.encode()
        fields = f"Content-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\nConnection: close"
        return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body


def _loopback(at: str) -> tuple[str, int]:
    host, _, port = at.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        if not address.is_loopback:
            raise ValueError("only on a loopback address, as 127.0.0.1:9464")
        return str(address), int(port)
    except ValueError as error:
        raise Refused("bad-config", f"metrics = {at!r}: {error}") from None
