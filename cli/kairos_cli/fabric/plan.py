"""The plan of one Worker, which serve.mjs reads: its modules, bindings and variables, and the limits that are
enforced."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from kairos_cli.fabric import cloudflare_limits, settings
from kairos_cli.fabric.operator import Operator
from kairos_cli.fabric.settings import Worker

_KEPT_S = 86_400.0
# host.mjs takes their place: with these flags workerd would fetch a bundle of its own.
_NATIVE_ONLY = ("python_workers", "python_workers_314")
# Modules that are imported before the snapshot is taken, so that a start need not import them.
_WARM = (
    "workers", "msgspec", "msgspec.json", "urllib.parse", "hashlib", "hmac", "secrets", "dataclasses", "logging",
    "ipaddress", "base64", "random", "datetime", "enum", "re", "typing",
)  # fmt: skip


def write_plan(
    root: Path, operator: Operator, worker: Worker, state: Path, host: str, port: int, meter: bool = False
) -> Path:
    """Writes the plan of one Worker; it holds secrets, so it is as private as the operator directory. port: the control plane's.
    Raises LimitError when Cloudflare would not take the variables."""
    given = settings.variables(operator, worker) | settings.secrets(operator, worker)
    for breach in cloudflare_limits.breaches_of_variables(worker, given):
        raise cloudflare_limits.LimitError(breach)
    configuration = _configuration(root, worker)
    plan = code_plan(root, worker) | {
        "bindings": _bindings(configuration, {"RELAY": f"{host}:{port + 1}", "CONTROL": f"{host}:{port}"})
        | {"bindings": given},
        "crons": configuration.get("triggers", {}).get("crons", []),
        "migrations": _migrations(configuration, root),
        "host": host,
        "port": port + (worker == "relay"),
        "state": str(state / worker),
        "meter": meter,
        "faults": str(state / f"{worker}.faults"),
        "most": str(state / f"{worker}.most.json"),
    }
    path = state / f"{worker}.plan.json"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(plan, file)
    return path


def code_plan(root: Path, worker: Worker) -> dict[str, Any]:
    """The part of a plan that says what runs, without bindings and without a place."""
    configuration = _configuration(root, worker)
    bundle, extensions = _bundle(root)
    return {
        "name": configuration["name"],
        "main": Path(configuration["main"]).stem,
        "compatibilityDate": configuration["compatibility_date"],
        "compatibilityFlags": [flag for flag in configuration["compatibility_flags"] if flag not in _NATIVE_ONLY],
        "classes": [each["class_name"] for each in configuration["durable_objects"]["bindings"]],
        "limits": cloudflare_limits.enforced_locally(),
        "warm": _WARM,
        "bundle": str(bundle),
        "extensions": extensions,
        "snapshot": str(_snapshot_path(root, extensions)),
    }


def _configuration(root: Path, worker: Worker) -> dict[str, Any]:
    return tomllib.loads((root / settings.CONFIGURATION[worker]).read_text())


def _bindings(configuration: dict[str, Any], services: dict[str, str]) -> dict[str, Any]:
    """wrangler's tables as miniflare's options; a service is the other process's address."""
    sqlite = {
        name for migration in configuration.get("migrations", []) for name in migration.get("new_sqlite_classes", [])
    }
    queues = configuration.get("queues", {})
    return {
        "d1Databases": {each["binding"]: {"id": each["database_id"]} for each in configuration.get("d1_databases", [])},
        "kvNamespaces": {each["binding"]: {"id": each["id"]} for each in configuration.get("kv_namespaces", [])},
        "r2Buckets": {each["binding"]: {"id": each["bucket_name"]} for each in configuration.get("r2_buckets", [])},
        "queueProducers": {each["binding"]: {"queueName": each["queue"]} for each in queues.get("producers", [])},
        "queueConsumers": {
            each["queue"]: {
                "maxBatchSize": each["max_batch_size"],
                "maxBatchTimeout": each["max_batch_timeout"],
                "maxRetries": each["max_retries"],
                "retryDelay": each["retry_delay"],
                **({"deadLetterQueue": each["dead_letter_queue"]} if "dead_letter_queue" in each else {}),
            }
            for each in queues.get("consumers", [])
        },
        "durableObjects": {
            each["name"]: {"className": each["class_name"], "useSQLite": each["class_name"] in sqlite}
            for each in configuration["durable_objects"]["bindings"]
        },
        "serviceBindings": {
            each["binding"]: {"external": {"address": services[each["binding"]], "http": {}}}
            for each in configuration.get("services", [])
        },
    }


def _migrations(configuration: dict[str, Any], root: Path) -> list[dict[str, str]]:
    """One entry for each database."""
    return [
        {"binding": each["binding"], "folder": str(root / each["migrations_dir"])}
        for each in configuration.get("d1_databases", [])
    ]


def _bundle(root: Path) -> tuple[Path, list[dict[str, str]]]:
    """Sources and packages as one zip, named by its content; extension modules apart, for workerd compiles them
    itself."""
    extensions: list[dict[str, str]] = []
    partial = root / f".build/fabric/bundle-{os.getpid()}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for folder, prefix in ((root / "workers/src", ""), (root / "python_modules", "python_modules/")):
            for path in sorted(folder.rglob("*")):
                if not path.is_file() or "__pycache__" in path.parts or path.suffix in (".pyi", ".pyc"):
                    continue
                name = prefix + path.relative_to(folder).as_posix()
                is_extension = path.suffix == ".so"
                if is_extension:
                    extensions.append({"path": f"/session/metadata/{name}", "file": str(path)})
                archive.writestr(zipfile.ZipInfo(name), b"" if is_extension else path.read_bytes())
    final = partial.with_name(f"bundle-{hashlib.sha256(partial.read_bytes()).hexdigest()[:16]}.zip")
    partial.rename(final)
    _delete_unused(final.parent)
    return final, extensions


def _delete_unused(folder: Path) -> None:
    """Deletes files that no start has used for a day."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another start forgot it
            if path.stat().st_mtime < time.time() - _KEPT_S:
                path.unlink()


def _snapshot_path(root: Path, extensions: list[dict[str, str]]) -> Path:
    """Named by all it depends on: Pyodide, the host, the packages and the list of warm modules."""
    digest = hashlib.sha256(repr(_WARM).encode())
    for name in (
        "package-lock.json",
        "workers/local/host.mjs",
        "workers/local/limits.mjs",
        "workers/local/prelude.mjs",
        "python_modules/.packages",
    ):
        digest.update((root / name).read_bytes())
    for extension in extensions:
        digest.update(Path(extension["file"]).read_bytes())
    return root / f".build/fabric/snapshot-{digest.hexdigest()[:16]}.bin"
