"""Cloudflare's documented limits that matter to this product, each with its source.

The CLI's checks, the local fabric (through its plan), the simulated account and the tests' control plane on CPython
read them from here. Values are of the Workers Paid plan; where the Free plan is stricter, the comment says so. A KB is
1,000 bytes where the page says so or does not say. Pages as of November 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kairos.errors import KairosError

# https://developers.cloudflare.com/workers/platform/limits/
VARIABLE_BYTES = 5_000  # "Environment variable size: 5 KB"; the same for a secret (API error 10054)
VARIABLES = 128  # "Environment variables: 64/Worker (Free), 128/Worker (Paid)"; variables and secrets together
SECRETS_A_CALL = 100  # "Each request supports up to 100 total operations" (changelog 2026-06-03, bulk secrets)
SCRIPT_BYTES = 10_000_000  # "Worker size: 3 MB (Free), 10 MB (Paid)" after compression; newer pages say 64 MiB for both
SCRIPT_BYTES_FREE = 3_000_000
STARTUP_CPU_MS = 1_000  # "Worker startup time: 1 second"
MEMORY_BYTES = 128_000_000  # "Memory: 128 MB", of an isolate: JavaScript heap and WebAssembly together
CPU_MS = 30_000  # "CPU time": 10 ms on Free; 30 s by default and up to 5 min (limits.cpu_ms) on Paid
SUBREQUESTS = 10_000  # "Subrequests: 50/request (Free), 10,000/request (Paid)"
URL_BYTES = 16_000  # "URL size: 16 KB"
HEADER_BYTES = 128_000  # "Request header size: 128 KB (total)"
BODY_BYTES = 100_000_000  # "Maximum request body size: 100 MB" on the Free and Pro plan of the zone; else 413

# https://developers.cloudflare.com/d1/platform/limits/
D1_QUERIES = 1_000  # "Queries per Worker invocation: 1000 (Workers Paid) / 50 (Free)"; statements of a batch count each
D1_DATABASE_BYTES = 10_000_000_000  # "Maximum database size: 10 GB (Workers Paid) / 500 MB (Free)"
D1_RESULT_BYTES = 50_000_000  # "Maximum query result size: 50 MB"

# The same page and https://developers.cloudflare.com/durable-objects/platform/limits/ : D1 and a Durable Object's SQLite alike
SQL_PARAMETERS = 100  # "Maximum bound parameters per query"
SQL_STATEMENT_BYTES = 100_000  # "Maximum SQL statement length: 100 KB"
SQL_VALUE_BYTES = 2_000_000  # "Maximum string, BLOB or table row size: 2 MB"
SQL_COLUMNS = 100  # "Maximum number of columns per table"
SQL_LIKE_BYTES = 50  # "Maximum characters (bytes) in a LIKE or GLOB pattern"
OBJECT_STORAGE_BYTES = 10_000_000_000  # "Storage per Durable Object: 10 GB"

# https://developers.cloudflare.com/durable-objects/platform/limits/
SOCKET_MESSAGE_BYTES = 33_554_432  # "WebSocket message size: 32 MiB (only for received messages)"

# https://developers.cloudflare.com/durable-objects/api/state/#acceptwebsocket , and the constants of workerd, which refuses more
# (https://github.com/cloudflare/workerd, src/workerd)
SOCKET_TAGS = 10  # "at most 10 tags associated with a WebSocket"; api/actor-state.h: MAX_TAGS_PER_CONNECTION
SOCKET_TAG_CHARACTERS = 256  # "Each tag is a maximum of 256 characters"; api/actor-state.h: MAX_TAG_LENGTH
SOCKETS = 32_768  # "a maximum of 32,768 WebSocket connections per Durable Object", less by CPU and memory; io/hibernation-manager.h
SOCKET_ATTACHMENT_BYTES = (
    16_384  # api/web-socket.h: MAX_ATTACHMENT_SIZE, serialized; pages from before it was raised say 2,048
)

# https://developers.cloudflare.com/kv/platform/limits/
KV_KEY_BYTES = 512
KV_METADATA_BYTES = 1_024
KV_VALUE_BYTES = 26_214_400  # 25 MiB
KV_WRITE_INTERVAL_MS = 1_000  # "Writes to same key: 1 per second"; the next one before that gets 429
KV_OPERATIONS = 1_000  # "Operations/Worker invocation: 1000"
KV_TTL_MIN_S = 60  # expirationTtl; https://developers.cloudflare.com/kv/api/write-key-value-pairs/

# https://developers.cloudflare.com/queues/platform/limits/ ("1 KB is measured as 1000 bytes")
QUEUE_MESSAGE_BYTES = 128_000
QUEUE_METADATA_BYTES = (
    100  # "Messages can include up to ~100 bytes of internal metadata that counts towards [the] limits"
)
QUEUE_BATCH_MESSAGES = 100  # "Maximum messages per sendBatch call: 100 (or 256KB in total)"; a consumer's batch as well
QUEUE_BATCH_BYTES = 256_000
QUEUE_BATCH_WAIT_S = 60
QUEUE_RETRIES = 100
QUEUE_DELAY_S = 86_400  # "delaySeconds (when sending or retrying): 24 hours"; wrangler takes 0 to 86400
QUEUE_RETENTION_S = 1_209_600  # "Configurable up to 14 days"; 4 days by default, 24 hours on Free
QUEUE_BACKLOG_BYTES = 25_000_000_000
QUEUES_AN_ACCOUNT = 10_000


def enforced_locally() -> dict[str, int]:
    """The limits that workers/local/limits.mjs enforces. workerd and miniflare enforce others themselves."""
    names = (
        "MEMORY_BYTES", "SUBREQUESTS", "BODY_BYTES", "URL_BYTES", "D1_QUERIES", "SQL_PARAMETERS", "SQL_STATEMENT_BYTES",
        "SQL_VALUE_BYTES", "SOCKET_MESSAGE_BYTES", "KV_VALUE_BYTES", "KV_WRITE_INTERVAL_MS", "KV_OPERATIONS",
        "QUEUE_MESSAGE_BYTES", "QUEUE_METADATA_BYTES", "QUEUE_BATCH_MESSAGES", "QUEUE_BATCH_BYTES",
    )  # fmt: skip
    return {name: globals()[name] for name in names}


@dataclass(frozen=True, slots=True)
class Breach:
    """One limit that was exceeded."""

    name: str
    """Which limit: a name of this module."""
    place: str
    """Where: a binding, a variable, a handler."""
    value: float
    """What was tried."""
    limit: float
    """What is allowed."""

    def __str__(self) -> str:
        return f"limit: {self.name}: {self.place}: {self.value:,.0f} > {self.limit:,.0f}"


class LimitError(KairosError):
    """A limit was exceeded; the text names it, where, and by what."""

    def __init__(self, breach: Breach) -> None:
        super().__init__(str(breach))
        self.breach = breach


def breaches_of_variables(worker: str, values: Mapping[str, str]) -> Iterator[Breach]:
    """What Cloudflare would refuse of a Worker's variables and secrets."""
    if len(values) > VARIABLES:
        yield Breach("VARIABLES", worker, len(values), VARIABLES)
    for name, value in values.items():
        if (size := len(value.encode())) > VARIABLE_BYTES:
            yield Breach("VARIABLE_BYTES", f"{worker}: {name}", size, VARIABLE_BYTES)


@dataclass(slots=True)
class Meter:
    """Counts what one invocation asks of its bindings, for stores and queues that do not run in workerd. Each method
    raises LimitError where production would refuse, and keeps the breach."""

    place: str = ""
    """The invocation that is counted."""
    queries: int = 0
    """D1 statements of this invocation."""
    most_queries: int = 0
    """The most of any invocation."""
    breaches: list[Breach] = field(default_factory=list)
    """All so far."""
    clock: Callable[[], float] = lambda: 0.0
    """Seconds, for what is limited by time."""
    _kv_written: dict[str, float] = field(default_factory=dict)
    """When each key was written last, by `clock`."""

    def begin(self, place: str) -> None:
        """A new invocation: its counts begin at zero."""
        self.place, self.queries = place, 0

    def query(self, sql: str, values: tuple[Any, ...]) -> None:
        """One D1 statement."""
        self.queries += 1
        self.most_queries = max(self.most_queries, self.queries)
        self._require("D1_QUERIES", self.queries, D1_QUERIES)
        self.statement(sql, values)

    def statement(self, sql: str, values: tuple[Any, ...]) -> None:
        """One statement of D1 or of a Durable Object's SQLite, without the count."""
        self._require("SQL_STATEMENT_BYTES", len(sql.encode()), SQL_STATEMENT_BYTES)
        self._require("SQL_PARAMETERS", len(values), SQL_PARAMETERS)
        for value in values:
            if isinstance(value, (str, bytes)):
                size = len(value.encode() if isinstance(value, str) else value)
                self._require("SQL_VALUE_BYTES", size, SQL_VALUE_BYTES)

    def messages(self, bodies: list[bytes]) -> None:
        """One sendBatch: each body as it goes on the wire."""
        self._require("QUEUE_BATCH_MESSAGES", len(bodies), QUEUE_BATCH_MESSAGES)
        sizes = [len(body) + QUEUE_METADATA_BYTES for body in bodies]
        for size in sizes:
            self._require("QUEUE_MESSAGE_BYTES", size, QUEUE_MESSAGE_BYTES)
        self._require("QUEUE_BATCH_BYTES", sum(sizes), QUEUE_BATCH_BYTES)

    def cache_write(self, key: str, value: bytes) -> None:
        """One put of KV."""
        self._require("KV_KEY_BYTES", len(key.encode()), KV_KEY_BYTES)
        self._require("KV_VALUE_BYTES", len(value), KV_VALUE_BYTES)
        now, last = self.clock(), self._kv_written.get(key)
        self._kv_written[key] = now
        if last is not None and now - last < KV_WRITE_INTERVAL_MS / 1000:
            self._refuse(Breach("KV_WRITE_INTERVAL_MS", f"{self.place}: {key}", 2, 1))

    def _require(self, name: str, value: float, limit: float) -> None:
        if value > limit:
            self._refuse(Breach(name, self.place, value, limit))

    def _refuse(self, breach: Breach) -> None:
        self.breaches.append(breach)
        raise LimitError(breach)
