"""A large population for a fabric, written into its stopped state: one device that enrolled for real, many times.

Every row that names the model device (in D1 and in the tenant's object) is copied with the names and keys of each further device,
so no table has to be known here. Keys are derived from names, so that any device of the population can act later.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from kairos.api.enrollment import Role
from kairos.audit.head import SignedHead
from kairos.audit.merkle import grow, root_at
from kairos.crypto import labels
from kairos.crypto.provider import Provider, SigningKey
from kairos.crypto.suites import Suite
from kairos.identity import transcript
from kairos.identity.spiffe import node_id
from kairos_cli.fabric.operator import Operator

_FRESH = frozenset({"serial", "session", "token_hash", "id", "enrollment"})  # columns whose values no two rows share
_FRESH_IN_TENANT = _FRESH | {"token_id", "admin"}
_OURS = ("sqlite_", "_cf_", "d1_", "log_", "outbox", "audit", "network_")  # tables that no device is copied in
_SHORT_LIVED = ("nonces", "sessions")
_KEPT_S = 86_400  # how much longer their rows hold, so that none ends while we measure
_FIRST_HOST = 10  # addresses before it are those of nodes that enrolled for real
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a population."""

    tenant: str
    """Whose node it is."""
    number: int
    """Its place among the nodes of its tenant."""
    node: str
    """Its id."""
    key: SigningKey
    """Its device key."""

    @property
    def names(self) -> tuple[str, str, str]:
        """The texts by which rows name it."""
        key = self.key.public_key
        return self.node, transcript.fingerprint(key).hex(), base64.b64encode(key).decode()


def member(provider: Provider, suite: Suite, tenant: str, number: int, role: Role = "endpoint") -> Member:
    """The node of this number; the same each time."""
    seed = hashlib.sha256(f"bench {tenant} {number}".encode()).digest()
    key = provider.signing_key(suite, seed)
    return Member(tenant, number, node_id(role, key.public_key), key)


@dataclass(frozen=True, slots=True)
class Copy:
    """What is different in one copy of the model's rows."""

    texts: dict[str, str]
    """Names and keys: the model's -> the copy's."""
    vni: int = 0
    """In place of the model's; 0: the same."""
    host: int = 0
    """Its address, counted from the beginning of the prefix; 0: the same."""


def add_devices(state: Path, model: Member, members: Sequence[Member]) -> None:
    """The fabric knows `members` as it knows `model`. state: of a fabric that is stopped."""
    copies = [Copy(dict(zip(model.names, each.names, strict=True)), host=each.number + _FIRST_HOST) for each in members]
    for file in _databases(state):
        with closing(_open(file)) as database, database:
            _multiply(database, model.names[:2], copies)
            for table in filter(partial(_has, database), _SHORT_LIVED):
                database.execute(f"UPDATE {table} SET expires_at = expires_at + ?", (_KEPT_S,))
            if _has(database, "lease_cursors"):
                database.execute("UPDATE lease_cursors SET next = ?", (str(len(members) + 2 * _FIRST_HOST),))


def add_tenants(state: Path, model: Sequence[Member], tenants: Sequence[Sequence[Member]]) -> None:
    """Tenants like that of `model`, which has one VNI, and nodes of their own: `model` in the same order. Their objects are made by
    their first call."""
    for file in _databases(state):
        with closing(_open(file)) as database, database:
            if _has(database, "vnis"):
                [[vni]] = database.execute("SELECT vni FROM vnis WHERE tenant = ?", (model[0].tenant,))
                copies = [_of_tenant(model, members, vni + number) for number, members in enumerate(tenants, 1)]
                _multiply(database, (model[0].tenant,), copies, vni)


def _of_tenant(model: Sequence[Member], members: Sequence[Member], vni: int) -> Copy:
    texts = {model[0].tenant: members[0].tenant}
    for old, new in zip(model, members, strict=True):
        texts |= dict(zip(old.names, new.names, strict=True))
    return Copy(texts, vni)


def grow_log(state: Path, operator: Operator, provider: Provider, tenant: str, size: int) -> float:
    """The tenant's audit log has `size` events, all sealed: leaves at random, the tree over them and a head that verifies. Returns
    how many bytes of the object's database one of them takes."""
    grown = 0
    for file in _databases(state):
        with closing(_open(file)) as database:
            if _has(database, "log_nodes"):
                before = _octets(database)
                with database:
                    _grow_log(database, operator, provider, tenant, size)
                grown += _octets(database) - before
    return grown / size


def _octets(database: sqlite3.Connection) -> int:
    [[pages]], [[size]] = database.execute("PRAGMA page_count"), database.execute("PRAGMA page_size")
    return int(pages * size)


def _grow_log(database: sqlite3.Connection, operator: Operator, provider: Provider, tenant: str, size: int) -> None:
    rows = database.execute("SELECT level, place, hash FROM log_nodes")
    nodes = {(level, place): base64.b64decode(value) for level, place, value in rows}
    [[before]] = database.execute("SELECT count(*) FROM log_events")
    chance = random.Random(size)
    added: dict[tuple[int, int], bytes] = {}

    def node(level: int, place: int) -> bytes:
        return added[level, place] if (level, place) in added else nodes[level, place]

    for position in range(before, size):
        for level, place, value in grow(position, chance.randbytes(32), node):
            added[level, place] = value
    database.executemany(
        "INSERT OR REPLACE INTO log_nodes (level, place, hash) VALUES (?, ?, ?)",
        ((*at, base64.b64encode(value).decode()) for at, value in added.items()),
    )
    database.executemany(
        "INSERT INTO log_events (position, id, line) VALUES (?, ?, '')",
        ((position, chance.randbytes(16).hex()) for position in range(before, size)),
    )
    root, at = root_at(max(size, before), node), int(time.time())
    key = provider.signing_key(operator.suite, operator.issuer_seed)
    signature = key.sign(transcript.audit_head(tenant, max(size, before), root, at), labels.AUDIT_HEAD)
    head = SignedHead(tenant, max(size, before), root, at, signature, operator.issuer_certificate)
    database.execute(
        "INSERT OR REPLACE INTO log_head (single, head) VALUES (1, ?)", (msgspec.json.encode(head).decode(),)
    )


# -- copies of rows ----------------------------------------------------------------------------------------------------


def _multiply(database: sqlite3.Connection, named: Sequence[str], copies: Sequence[Copy], vni: int = 0) -> None:
    """Each row that holds one of the texts `named`, or this VNI, once more for each copy."""
    database.execute("PRAGMA foreign_keys = OFF")
    for table, counter in _tables(database):
        rows = [row for row in _rows(database, table) if _is_named(row, named) or (vni and row.get("vni") == vni)]
        if not rows:
            continue
        marks = ", ".join(f":{column}" for column in rows[0])
        columns = ", ".join(f'"{column}"' for column in rows[0])
        database.executemany(
            f"INSERT INTO {table} ({columns}) VALUES ({marks})",
            (_copied(row, copy) | counter for copy in copies for row in rows),
        )


def _copied(row: Row, copy: Copy) -> Row:
    copied = {column: _renamed(value, copy.texts) for column, value in row.items()}
    suffix = next(iter(copy.texts.values()))
    for column in (_FRESH_IN_TENANT if copy.vni else _FRESH) & row.keys():
        if row[column] and copied[column] == row[column]:
            copied[column] = hashlib.sha256(f"{row[column]}{suffix}".encode()).hexdigest()[: len(row[column])]
    if copy.vni and "vni" in row:
        copied["vni"] = copy.vni
    if copy.host and "address" in row and "prefix" in row:
        network = ipaddress.ip_network(row["prefix"])
        copied["address"] = f"{network[copy.host]}/{network.prefixlen}"
    return copied


def _renamed(value: Any, texts: dict[str, str]) -> Any:
    if isinstance(value, str):
        for old, new in texts.items():
            if old in value:
                value = value.replace(old, new)
    return value


def _is_named(row: Row, named: Sequence[str]) -> bool:
    return any(isinstance(value, str) and any(name in value for name in named) for value in row.values())


def _rows(database: sqlite3.Connection, table: str) -> Iterator[Row]:
    cursor = database.execute(f"SELECT * FROM {table}")
    columns = [each[0] for each in cursor.description]
    return (dict(zip(columns, row, strict=True)) for row in cursor.fetchall())


def _tables(database: sqlite3.Connection) -> Iterator[tuple[str, Row]]:
    """(table, its column that SQLite numbers by itself, as None)."""
    names = [name for [name] in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for name in names:
        if not name.startswith(_OURS):
            info = database.execute(f"PRAGMA table_info({name})").fetchall()
            keys = [column for _, column, kind, _, _, place in info if place and kind == "INTEGER"]
            single = sum(place > 0 for *_, place in info) == 1
            yield name, dict.fromkeys(keys) if single and keys != ["vni"] else {}


def _has(database: sqlite3.Connection, table: str) -> bool:
    return database.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone() is not None


def _databases(state: Path) -> list[Path]:
    """D1's and the objects', without those of miniflare itself."""
    return [file for kind in ("d1", "do") for file in state.glob(f"control/{kind}/*/*.sqlite") if len(file.stem) == 64]


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file)
