"""The fabrics of earlier revisions, as tests/fabric/states keeps them, unpacked and ready for today's code."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from fabric_files import database_of, read, tenant_objects

from archives import unpacking
from control_plane import ControlPlane, Device, SqliteLocal
from fabric_host import default_provider, free_ports
from kairos.audit.head import SignedHead
from kairos.crypto.suites import KR1
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.fabric.operator import Operator
from kairos_control.ports import Issuer
from kairos_node.state import NodeState

ROOT = Path(__file__).parents[1]
ARCHIVES = sorted((ROOT / "tests/fabric/states").glob("*.tar.xz"))


@dataclass(frozen=True)
class KeptState:
    """One archive, unpacked. tests/fabric/states/README.md tells what is in it."""

    folder: Path
    """Where it is."""

    facts: dict[str, Any]
    """What was true when the fabric was killed."""

    @property
    def operator(self) -> Operator:
        return Operator.load(self.folder / "operator")

    @property
    def state(self) -> Path:
        return self.folder / "operator/state"

    def heads(self, tenant: str) -> list[Path]:
        """Of its audit log, the oldest first."""
        found = (self.folder / "heads").glob(f"{tenant}-*.json")
        return sorted(found, key=lambda path: read_head(path).size)

    def device(self, name: str) -> Device:
        """Its key as it is on the node's disk."""
        keys = NodeState(self.folder / "nodes" / name).keys
        assert keys is not None
        role = "gateway" if self.facts["nodes"][name].startswith("gw-") else "endpoint"
        return Device(role, default_provider().signing_key(KR1, keys.seed))

    def move(self) -> None:
        """To ports that are free now."""
        toml = self.folder / "operator/fabric.toml"
        port, operator = free_ports("127.0.0.1"), self.operator
        text = toml.read_text().replace(operator.relay_url, f"http://127.0.0.1:{port + 1}")
        toml.write_text(text.replace(operator.url, f"http://127.0.0.1:{port}"))


def unpacked(archive: Path, folder: Path) -> KeptState:
    with unpacking(archive) as files:
        files.extractall(folder)
    return KeptState(folder, json.loads((folder / "facts.json").read_text()))


def read_head(path: Path) -> SignedHead:
    return msgspec.json.decode(path.read_bytes(), type=SignedHead)


def changes(kept: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where an answer of today lacks, or has otherwise, what the answer of then had. A field that was added is no change; who is
    online and what has become late are no records."""
    if isinstance(kept, dict) and isinstance(now, dict):
        for name, value in kept.items():
            if name not in ("online", "late"):
                yield from changes(value, now.get(name), f"{place}.{name}")
    elif isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        for number, (one, other) in enumerate(zip(kept, now, strict=True)):
            yield from changes(one, other, f"{place}[{number}]")
    elif kept != now and not (kept is None and now == ""):  # a text that there is not was null in places
        yield f"{place}: {str(kept)[:200]} became {str(now)[:200]}"


@contextmanager
def revived(kept: KeptState) -> Iterator[ControlPlane]:
    """The kept fabric on CPython, at the moment at which it was killed, with the migrations of D1 that it lacked."""
    plane, operator = ControlPlane(), kept.operator
    plane.now, plane.admin_token = kept.facts["kept_at"], operator.admin_token
    plane.platform.settings = replace(
        plane.platform.settings,
        trust_domain=operator.trust_domain,
        relay_url=operator.relay_url,
        root=parse_certificate_untrusted(operator.root_certificate),
        issuer=Issuer(parse_certificate_untrusted(operator.issuer_certificate), operator.issuer_seed),
        policy_key=operator.policy_key,
        admin_token_hash=hashlib.sha256(operator.admin_token.encode()).hexdigest(),
        internal_key=operator.internal_key,
        introspection_keys=(operator.internal_key,),
        session_life_s=operator.session_life_s,
    )
    _load(database_of(kept.state), plane.store.database)
    _migrate(plane.store.database)
    for tenant, path in tenant_objects(kept.state).items():
        plane.objects[tenant] = SqliteLocal(plane.meter)
        _load(path, plane.objects[tenant].database)
    plane.blobs.update(_blobs(kept.state / "control/r2"))
    try:
        yield plane
    finally:
        plane.close()


def _load(path: Path, into: sqlite3.Connection) -> None:
    """All of it, but for the tables of the runtime."""
    with closing(sqlite3.connect(path)) as opened:
        opened.backup(into)
    for (table,) in into.execute("SELECT name FROM sqlite_master WHERE name GLOB '_cf_*'").fetchall():
        into.execute(f"DROP TABLE {table}")


def _migrate(database: sqlite3.Connection) -> None:
    applied = {name for (name,) in database.execute("SELECT name FROM d1_migrations")}
    for path in sorted((ROOT / "workers/migrations").glob("*.sql")):
        if path.name not in applied:
            database.executescript(path.read_text())
            with database:
                database.execute("INSERT INTO d1_migrations (name) VALUES (?)", (path.name,))


def _blobs(r2: Path) -> dict[str, bytes]:
    """R2's objects: their keys are in SQLite, their bytes in files beside it."""
    [index] = [path for path in (r2 / "miniflare-R2BucketObject").glob("*.sqlite") if path.stem != "metadata"]
    [folder] = [path for path in r2.glob("*/blobs") if path.is_dir()]
    return {key: (folder / blob).read_bytes() for key, blob in read(index, "SELECT key, blob_id FROM _mf_objects")}
