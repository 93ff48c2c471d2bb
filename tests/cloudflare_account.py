"""A stand-in for Cloudflare's API, as far as wrangler asks it: an account is not to be had in a test. It keeps what it is given, and
refuses what the real one refuses: a binding to a Worker that is not there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACCOUNT = "0123456789abcdef0123456789abcdef"
DATABASE = "11111111-2222-4333-8444-555555555555"
NAMESPACE = "abcdefabcdefabcdefabcdefabcdefab"
_VERSION = {"version_id": "v", "percentage": 100}
_NO_WORKER, _NO_TARGET = 10007, 10143  # Cloudflare's codes


class Refusal(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


_QUEUES = {"kairos-events": "q1", "kairos-telemetry": "q2", "kairos-sweeps": "q3"}


class CloudflareAccount:
    """created: kinds of resources in order; scripts: the metadata of each Worker's last upload; secrets: their names and values, by
    Worker; unknown: calls that this stand-in does not know."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.uploads: list[tuple[str, dict[str, Any]]] = []
        self.statements: list[str] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.triggers: list[Any] = []  # crons, queue consumers
        self.unknown: list[str] = []
        self.url = ""

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
        path = path.split("?")[0].removeprefix(f"/client/v4/accounts/{ACCOUNT}")
        name = path.removeprefix("/workers/").split("/")[1] if path.startswith("/workers/s") and "/" in path[9:] else ""
        match method, re.sub(r"/(kairos-\w+|q\d|[0-9a-f-]{36})(?=/|$)", "/*", path):
            case "POST", "/d1/database":
                return self._create("database", {"uuid": DATABASE, "name": "kairos", "version": "production"})
            case "POST", "/storage/kv/namespaces":
                return self._create("cache", {"id": NAMESPACE, "title": "kairos-cache"})
            case "POST", "/r2/buckets":
                return self._create("blobs", {})
            case "POST", "/queues":
                queue = json.loads(body)["queue_name"]
                return self._create(queue.removeprefix("kairos-"), {"queue_name": queue, "queue_id": _QUEUES[queue]})
            case "GET", "/queues":
                return [
                    {"queue_name": name, "queue_id": id_, "producers": [], "consumers": []}
                    for name, id_ in _QUEUES.items()
                ]
            case "POST", "/d1/database/*/query":
                self.statements.append(json.loads(body)["sql"])
                return [{"results": [], "success": True, "meta": {}}]
            case ("PUT", "/workers/scripts/*") | ("POST", "/workers/scripts/*/versions"):
                return self._upload(name, kind, body)
            case "PATCH", "/workers/scripts/*/secrets-bulk":
                self._require(name)
                given = json.loads(body)["secrets"]
                self.secrets[name] = {key: each["text"] for key, each in given.items()}
                return {}
            case "GET", "/workers/services/*":
                self._require(name)
                script = {"last_deployed_from": "wrangler", "tag": "t", "tags": None} | self._migrated(name)
                return {"id": name, "default_environment": {"environment": "production", "script": script}}
            case "GET", "/workers/scripts/*/deployments":
                return {"deployments": [{"id": "d", "source": "wrangler", "versions": [_VERSION]}]}
            case "GET", "/workers/scripts":
                return [{"id": each} | self._migrated(each) for each in self.scripts]
            case "GET", "/workers/scripts/*/settings":
                return {"bindings": [], "tags": None} | self._migrated(name)
            case "GET", "/workers/workers/*":
                return {"name": "worker", "subdomain": {"enabled": True, "previews_enabled": False}}
            case "GET", "/workers/subdomain":
                return {"subdomain": "example"}
            case _, "/workers/scripts/*/subdomain":
                return {"enabled": True, "previews_enabled": False}
            case ("PUT", "/workers/scripts/*/schedules") | ("POST", "/queues/*/consumers"):
                self.triggers.append(json.loads(body))
                return {}
            case "GET", _:
                return []
        self.unknown.append(f"{method} {path}")
        return {}

    def _create(self, kind: str, result: dict[str, str]) -> dict[str, str]:
        self.created.append(kind)
        return result

    def _require(self, name: str) -> None:
        if name not in self.scripts:
            raise Refusal(404, _NO_WORKER, "workers.api.error.script_not_found")

    def _migrated(self, name: str) -> dict[str, str]:
        tags = [
            metadata["migrations"]["new_tag"]
            for each, metadata in self.uploads
            if each == name and "migrations" in metadata
        ]
        return {"migration_tag": tags[-1]} if tags else {}

    def _upload(self, name: str, kind: str, body: bytes) -> dict[str, Any]:
        form: Any = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        metadata: dict[str, Any] = json.loads(form.get_payload()[0].get_payload(decode=True))
        for binding in metadata["bindings"]:
            if binding["type"] == "service" and binding["service"] not in self.scripts:
                raise Refusal(400, _NO_TARGET, f"Could not resolve service binding '{binding['name']}'")
        self.uploads.append((name, metadata))
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
