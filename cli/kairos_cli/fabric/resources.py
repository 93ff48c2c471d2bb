"""The resources of both Workers in the account: a database, a cache, a bucket and queues, each created once."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from kairos_cli.fabric.operator import Operator, write_files
from kairos_cli.fabric.wrangler import DeployError, Wrangler

RECORD = "deployment.json"
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}")
_EXISTS = re.compile(r"already (?:exists|taken|in use)|name.* taken", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the account."""

    name: str
    """What the record calls it."""
    create: tuple[str, ...]
    """wrangler's arguments that create it."""
    placeholder: str = ""
    """Its id in wrangler.toml, where it has one."""
    find: tuple[str, ...] = ()
    """wrangler's arguments that list resources of this kind as JSON, where the id is needed."""
    named: str = ""
    """Its name in that list."""


RESOURCES = (
    Resource(
        "database", ("d1", "create", "kairos"), "00000000-0000-0000-0000-000000000001", ("d1", "list", "--json"), "kairos"
    ),
    Resource(
        "cache", ("kv", "namespace", "create", "kairos-cache"), "00000000000000000000000000000001",
        ("kv", "namespace", "list"), "kairos-cache",
    ),
    Resource("blobs", ("r2", "bucket", "create", "kairos-blobs")),
    *(
        Resource(f"{name}{suffix}", ("queues", "create", f"kairos-{name}{suffix}"))
        for name in ("events", "telemetry", "sweeps")
        for suffix in ("-dead", "")  # a consumer's dead-letter queue must be there before it
    ),
)  # fmt: skip


def known(operator: Operator) -> dict[str, str]:
    """Name -> id of those that were made; empty where nothing was ever deployed."""
    path = operator.folder / RECORD
    record: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return record


def ensure(operator: Operator, wrangler: Wrangler) -> dict[str, str]:
    """Makes what is missing and returns placeholder -> id. Each is recorded at once, and one that a run made before
    it could record it is found again, so a second run goes on."""
    record = known(operator)
    for resource in RESOURCES:
        if resource.name not in record:
            record[resource.name] = _make(resource, wrangler)
            write_files(operator.folder, [(RECORD, json.dumps(record, indent=2).encode())])
    return placeholders(record)


def placeholders(record: dict[str, str]) -> dict[str, str]:
    return {each.placeholder: record[each.name] for each in RESOURCES if each.placeholder}


def _make(resource: Resource, wrangler: Wrangler) -> str:
    if resource.find:
        for each in json.loads(wrangler.run(*resource.find)):
            if resource.named in (each.get("name"), each.get("title")):
                return str(each.get("uuid") or each["id"])
    try:
        said = wrangler.run(*resource.create)
    except DeployError as error:
        if not resource.placeholder and _EXISTS.search(str(error)):
            return resource.name
        raise
    if not resource.placeholder:
        return resource.name
    found = _ID.search(said)
    if found is None:
        raise DeployError(f"wrangler made the {resource.name} but named no id: {said.strip()[-200:]}")
    return found[0]
