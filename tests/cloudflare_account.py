"""A stand-in for Cloudflare's API, as far as wrangler asks it: an account is not to be had in a test. It keeps what it is given, runs D1's
statements in SQLite, and refuses what the real one refuses: a binding to what is not there, a name that is taken, a value, script or queue
setting beyond its limit (kairos_cli/fabric/cloudflare_limits.py), migrations of objects out of order, flags that nobody knows."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kairos_cli.fabric import cloudflare_limits as limits

ACCOUNT = "0123456789abcdef0123456789abcdef"
DATABASE = "11111111-2222-4333-8444-555555555555"
NAMESPACE = "abcdefabcdefabcdefabcdefabcdefab"
_VERSION = {"version_id": "v", "percentage": 100}
# Cloudflare's codes, where they are known
_NO_WORKER, _NO_TARGET, _TOO_LARGE, _TOO_MANY, _TAKEN, _NO_QUEUE, _BAD_QUEUE, _BAD_FLAG, _BAD_TAG = (
    10007, 10143, 10054, 10055, 11009, 11000, 11005, 10021, 10079,
)  # fmt: skip
_FLAGS = ("python_workers", "python_workers_314", "webcrypto_modern_algorithms")
QUEUES = tuple(f"kairos-{name}{suffix}" for name in ("events", "telemetry", "sweeps") for suffix in ("-dead", ""))


class Refusal(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class CloudflareAccount:
    """created: kinds of resources in order; uploads: each Worker's metadata; deployments: of each
    version that was put into force, its Worker and what was asked; steps: the changes of Workers, secrets and tables, in order; secrets: their names and values, by Worker; consumers: the settings
    of each queue's consumer; unknown: calls that this stand-in does not know; fails_after: how many more changes it takes before it answers
    none, as when the caller is killed."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.uploads: list[tuple[str, dict[str, Any]]] = []
        self.deployments: list[tuple[str, dict[str, Any]]] = []
        self.steps: list[str] = []
        self.statements: list[str] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.secret_calls: list[tuple[str, dict[str, str | None]]] = []
        self.consumers: dict[str, dict[str, Any]] = {}
        self.schedules: list[Any] = []
        self.unknown: list[str] = []
        self.fails_after: int | None = None
        self.url = ""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.row_factory = sqlite3.Row

    def close(self) -> None:
        self._database.close()

    @property
    def scripts(self) -> dict[str, dict[str, Any]]:
        return dict(self.uploads)

    def environment(self) -> dict[str, str]:
        return {
            "CLOUDFLARE_API_BASE_URL": f"{self.url}/client/v4",
            "CLOUDFLARE_API_TOKEN": "a-token",
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        }

    def answer(self, method: str, path: str, kind: str, body: bytes) -> Any:
        """The `result` of an answer. Raises Refusal."""
        with self._lock:
            if self.fails_after is not None and method != "GET":
                if not self.fails_after:
                    raise Refusal(500, 10000, "killed")
                self.fails_after -= 1
            return self._answer(method, path, kind, body)

    def _answer(self, method: str, path: str, kind: str, body: bytes) -> Any:
        query = parse_qs(urlsplit(path).query)
        path = path.split("?")[0].removeprefix(f"/client/v4/accounts/{ACCOUNT}")
        if method == "GET" and int(query.get("page", ["1"])[0]) > 1:
            return []  # wrangler asks on until a page is empty
        name = path.removeprefix("/workers/").split("/")[1] if path.startswith("/workers/s") and "/" in path[9:] else ""
        match method, re.sub(r"/(kairos-[\w-]+|q-[\w-]+|[0-9a-f-]{36})(?=/|$)", "/*", path):
            case "GET", "/d1/database":
                return [{"uuid": DATABASE, "name": "kairos"}] if "database" in self.created else []
            case "GET", "/storage/kv/namespaces":
                return [{"id": NAMESPACE, "title": "kairos-cache"}] if "cache" in self.created else []
            case "POST", "/d1/database":
                return self._create("database", {"uuid": DATABASE, "name": "kairos", "version": "production"})
            case "POST", "/storage/kv/namespaces":
                return self._create("cache", {"id": NAMESPACE, "title": "kairos-cache"})
            case "POST", "/r2/buckets":
                return self._create("blobs", {})
            case "POST", "/queues":
                queue = json.loads(body)["queue_name"]
                return self._create(queue.removeprefix("kairos-"), self._queue(queue))
            case "GET", "/queues":
                held = [f"kairos-{each}" for each in self.created if f"kairos-{each}" in QUEUES]
                return [self._queue(each) for each in held if each in query.get("name", held)]
            case "POST", "/d1/database/*/query":
                return [{"results": self._query(json.loads(body)), "success": True, "meta": {}}]
            case ("PUT", "/workers/scripts/*") | ("POST", "/workers/scripts/*/versions"):
                return self._upload(name, kind, body)
            case "PATCH", "/workers/scripts/*/secrets-bulk":
                return self._put_secrets(name, json.loads(body)["secrets"])
            case "GET", "/workers/scripts/*/secrets":
                self._require(name)
                return [{"name": each, "type": "secret_text"} for each in self.secrets.get(name, {})]
            case "GET", "/workers/services/*":
                self._require(name)
                script = {"last_deployed_from": "wrangler", "tag": "t", "tags": None} | self._migrated(name)
                return {"id": name, "default_environment": {"environment": "production", "script": script}}
            case "POST", "/workers/scripts/*/deployments":
                self._require(name)  # of a script that is there, a version is put into force by a call of its own
                self.deployments.append((name, json.loads(body)))
                return {"id": "d"}
            case "PATCH", "/workers/scripts/*/script-settings":
                self._require(name)
                return {"id": "d"}
            case "GET", "/workers/scripts/*/deployments":
                return {"deployments": [{"id": "d", "source": "wrangler", "versions": [_VERSION]}]}
            case "GET", "/workers/scripts":
                return [{"id": each} | self._migrated(each) for each in self.scripts]
            case "GET", "/workers/scripts/*/settings":
                return {"bindings": [], "tags": None} | self._migrated(name)
            case "GET", "/workers/workers/*":
                return {"name": "worker", "subdomain": {"enabled": False, "previews_enabled": False}}
            case "GET", "/workers/subdomain":
                return {"subdomain": "example"}
            case _, "/workers/scripts/*/subdomain":
                return {"enabled": False, "previews_enabled": False}
            case "PUT", "/workers/scripts/*/schedules":
                self.schedules.append(json.loads(body))
                return {}
            case "POST", "/queues/*/consumers":
                return self._consume(path.split("/")[2].removeprefix("q-"), json.loads(body))
            case "GET", _:
                return []
        self.unknown.append(f"{method} {path}")
        return {}

    def _create(self, kind: str, result: dict[str, Any]) -> dict[str, Any]:
        if kind in self.created:
            raise Refusal(409, _TAKEN, f"{kind} already exists")
        self.created.append(kind)
        return result

    def _queue(self, name: str) -> dict[str, Any]:
        return {"queue_name": name, "queue_id": f"q-{name}", "producers": [], "consumers": []}

    def _query(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        self.statements.append(call["sql"])
        if "CREATE TABLE" in call["sql"]:
            self.steps.append("migration")
        if len(re.findall(r";\s*\S", call["sql"])) and not call.get("params"):
            self._database.executescript(call["sql"])
            return []
        rows = self._database.execute(call["sql"], call.get("params") or ())
        self._database.commit()
        return [dict(row) for row in rows.fetchall()]

    def _require(self, name: str) -> None:
        if name not in self.scripts:
            raise Refusal(404, _NO_WORKER, "workers.api.error.script_not_found")

    def _put_secrets(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        self._require(name)
        texts = {key: each and each["text"] for key, each in given.items()}
        if len(texts) > limits.SECRETS_A_CALL:
            raise Refusal(400, _TOO_MANY, f"at most {limits.SECRETS_A_CALL} secrets a request")
        held = self.secrets.get(name, {}) | texts
        kept = {key: text for key, text in held.items() if text is not None}
        self._check_texts(name, kept)
        self.secrets[name] = kept
        self.secret_calls.append((name, texts))
        self.steps.append("secrets")
        return {}

    def _check_texts(self, name: str, texts: dict[str, str]) -> None:
        for breach in limits.breaches_of_variables(name, texts):
            raise Refusal(400, _TOO_LARGE if breach.name == "VARIABLE_BYTES" else _TOO_MANY, str(breach))

    def _consume(self, queue: str, consumer: dict[str, Any]) -> dict[str, Any]:
        settings = consumer["settings"]
        for key, limit in (
            ("batch_size", limits.QUEUE_BATCH_MESSAGES),
            ("max_retries", limits.QUEUE_RETRIES),
            ("max_wait_time_ms", limits.QUEUE_BATCH_WAIT_S * 1000),
            ("retry_delay", limits.QUEUE_DELAY_S),
        ):
            if settings.get(key, 0) > limit:
                raise Refusal(400, _BAD_QUEUE, f"{queue}: {key} is {settings[key]}, at most {limit}")
        self._require_queue(consumer.get("dead_letter_queue"))
        self.consumers[queue] = {"dead_letter_queue": consumer.get("dead_letter_queue"), **settings}
        return {}

    def _require_queue(self, name: str | None) -> None:
        if name and name.removeprefix("kairos-") not in self.created:
            raise Refusal(404, _NO_QUEUE, f"Queue {name} does not exist")

    def _migrated(self, name: str) -> dict[str, str]:
        tags = [
            metadata["migrations"]["new_tag"]
            for each, metadata in self.uploads
            if each == name and "migrations" in metadata
        ]
        return {"migration_tag": tags[-1]} if tags else {}

    def _upload(self, name: str, kind: str, body: bytes) -> dict[str, Any]:
        form: Any = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        metadata_part, *modules = form.get_payload()
        metadata: dict[str, Any] = json.loads(metadata_part.get_payload(decode=True))
        size = len(gzip.compress(b"".join(module.get_payload(decode=True) for module in modules)))
        if size > limits.SCRIPT_BYTES:
            raise Refusal(400, _TOO_LARGE, f"the script has {size} bytes compressed, at most {limits.SCRIPT_BYTES}")
        for flag in metadata.get("compatibility_flags", []):
            if flag not in _FLAGS:
                raise Refusal(400, _BAD_FLAG, f"No such compatibility flag: {flag}")
        texts = {each["name"]: each["text"] for each in metadata["bindings"] if each["type"] == "plain_text"}
        self._check_texts(name, self.secrets.get(name, {}) | texts)
        for binding in metadata["bindings"]:
            if binding["type"] == "service" and binding["service"] not in self.scripts:
                raise Refusal(400, _NO_TARGET, f"Could not resolve service binding '{binding['name']}'")
            if binding["type"] == "queue":
                self._require_queue(binding["queue_name"])
        before = self._migrated(name).get("migration_tag")
        if "migrations" in metadata and metadata["migrations"].get("old_tag") != before:
            raise Refusal(
                412, _BAD_TAG, f"the migrations begin at {metadata['migrations'].get('old_tag')}, not at {before}"
            )
        self.uploads.append((name, metadata))
        self.steps.append(name)
        resources = {"script": {"etag": "e"}}
        return {"id": name, "etag": "e", "deployment_id": "d", "startup_time_ms": 1, "resources": resources}


@contextmanager
def running_account() -> Iterator[CloudflareAccount]:
    account = CloudflareAccount()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Tests read what the account kept."""

        def _serve(self) -> None:
            body = self._chunks() if "chunked" in self.headers.get("transfer-encoding", "") else self._body()
            try:
                result = account.answer(self.command, self.path, self.headers.get("content-type", ""), body)
                status, errors = 200, []
            except Refusal as refusal:
                result, status = None, refusal.status
                errors = [{"code": refusal.code, "message": str(refusal)}]
            said = json.dumps({"success": not errors, "errors": errors, "messages": [], "result": result}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    account.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield account
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        account.close()
