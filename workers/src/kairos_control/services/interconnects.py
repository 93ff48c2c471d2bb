"""Interconnects of one tenant: two VNIs joined at the gateways, each prefix of one by a name in the other."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from kairos.api.admin import InterconnectCreate, InterconnectRecord, PrefixName

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Database, Row, Statement, TenantPlatform
from ..problems import problem
from ..store.records import routes_of, strings
from .journal import Journal
from .pushes import Pushes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_INSERT = "INSERT INTO interconnects (vni, seen, other, prefix, created_at) VALUES (?, ?, ?, ?, ?)"
_NAMED = (
    "SELECT i.*, h.name AS here, o.name AS there FROM interconnects i"
    " JOIN vnis h ON h.vni = i.vni JOIN vnis o ON o.vni = i.other WHERE h.tenant = ?"
)


@dataclass(frozen=True)
class Name:
    """`prefix` of VNI `of` is called `seen` in the other one."""

    of: int
    prefix: Network
    seen: Network


class Interconnects:
    def __init__(self, platform: TenantPlatform, journal: Journal, pushes: Pushes) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes

    async def create(self, call: Call) -> Reply:
        wanted = call.decode(InterconnectCreate)
        a, b = await self._vni(wanted.a), await self._vni(wanted.b)
        if a["vni"] == b["vni"]:
            raise problem("invalid", f"{wanted.a} and {wanted.b} are one VNI")
        if await self._rows_of(a["vni"], b["vni"]):
            raise problem("exists", f"{a['name']} and {b['name']} are joined; delete that interconnect first")
        for each in wanted.maps:
            if each.vni not in (a["name"], b["name"]):
                raise problem("invalid", f"map {each.prefix}: {each.vni} is neither {a['name']} nor {b['name']}")
        statements = [
            *await self._names(wanted.maps, of=a, at=b),
            *await self._names(wanted.maps, of=b, at=a),
        ]
        await self._platform.database.write(statements)
        record = await self._record(a["name"], b["name"])
        self._journal.record(
            "interconnect.created", actor=call.actor, subject=_subject(record), after=msgspec.to_builtins(record)
        )
        await self._pushes.network_changed()
        return reply(record, 201)

    async def listing(self, call: Call) -> Reply:
        """By the names of both."""
        view = window(call)
        rows = await self._platform.database.rows(_NAMED, self._platform.tenant)
        by_names = sorted(((f"{record.a}.{record.b}", record) for record in _records(rows)), key=lambda each: each[0])
        following = [{"names": names, "record": record} for names, record in by_names if names > view.after]
        return view.page_of_rows(following[: view.fetch], "names", lambda row: row["record"])

    async def show(self, call: Call) -> Reply:
        return reply(await self._record(call.parameters["a"], call.parameters["b"]))

    async def delete(self, call: Call) -> Reply:
        record = await self._record(call.parameters["a"], call.parameters["b"])
        a, b = await self._vni(record.a), await self._vni(record.b)
        sql = "DELETE FROM interconnects WHERE vni = ? AND other = ?"
        await self._platform.database.write([(sql, (a["vni"], b["vni"])), (sql, (b["vni"], a["vni"]))])
        self._journal.record(
            "interconnect.deleted", actor=call.actor, subject=_subject(record), before=msgspec.to_builtins(record)
        )
        await self._pushes.network_changed()
        return reply(None)

    async def _names(self, maps: list[PrefixName], of: Row, at: Row) -> list[Statement]:
        """What VNI `of` is called in VNI `at`: what a map says, and by itself what none names. Raises invalid."""
        prefixes = [ipaddress.ip_network(text) for text in strings(of["prefixes"])]
        told = [_name(each, of["vni"], prefixes) for each in maps if each.vni == of["name"]]
        silent = [prefix for prefix in prefixes if not any(_overlap(prefix, each.prefix) for each in told)]
        names = [*told, *(Name(of["vni"], prefix, prefix) for prefix in silent)]
        own = [ipaddress.ip_network(text) for text in strings(at["prefixes"])]
        taken = [*own, *await seen_in(self._platform.database, at["vni"])]
        routes = await self._routes(at)
        for index, name in enumerate(names):
            earlier = names[:index]
            for other in [*taken, *routes, *(each.seen for each in earlier)]:
                if _overlap(name.seen, other) and not (other in routes and _wider(other, name.seen)):
                    raise problem(
                        "invalid",
                        f"{name.seen} of {of['name']} overlaps {other} in {at['name']}; give it another name there, with a map "
                        f"of {of['name']} from {name.prefix} to a free network of that length",
                    )
            for each in earlier:
                if _overlap(name.prefix, each.prefix):
                    raise problem("invalid", f"{name.prefix} and {each.prefix} of {of['name']} overlap")
        now = int(self._platform.clock())
        return [(_INSERT, (at["vni"], str(name.seen), of["vni"], str(name.prefix), now)) for name in names]

    async def _routes(self, vni: Row) -> list[Network]:
        """What lies behind gateways and endpoints, approved or about to be."""
        rows = await self._platform.database.rows("SELECT prefix FROM routes WHERE vni = ?", vni["vni"])
        texts = [*(route.prefix for route in routes_of(vni)), *(row["prefix"] for row in rows)]
        return [ipaddress.ip_network(text) for text in texts]

    async def _vni(self, name: str) -> Row:
        row = await self._platform.database.first(
            "SELECT * FROM vnis WHERE tenant = ? AND (name = ? OR CAST(vni AS TEXT) = ?)",
            self._platform.tenant, name, name,
        )  # fmt: skip
        if row is None:
            raise problem("not-found", f"there is no VNI {name}")
        return row

    async def _rows_of(self, a: int, b: int) -> list[Row]:
        sql = f"{_NAMED} AND ((i.vni = ? AND i.other = ?) OR (i.vni = ? AND i.other = ?))"
        return await self._platform.database.rows(sql, self._platform.tenant, a, b, b, a)

    async def _record(self, a: str, b: str) -> InterconnectRecord:
        rows = await self._rows_of((await self._vni(a))["vni"], (await self._vni(b))["vni"])
        if not rows:
            raise problem("not-found", f"{a} and {b} are not joined")
        return _records(rows)[0]


async def seen_in(store: Database, vni: int) -> list[Network]:
    """What this VNI sees of others."""
    rows = await store.rows("SELECT seen FROM interconnects WHERE vni = ? ORDER BY seen", vni)
    return [ipaddress.ip_network(row["seen"]) for row in rows]


async def refuse_where_joined(store: Database, vni: int, name: str, lost: Iterable[str] = ()) -> None:
    """Raises in-use while the VNI is joined to another; with `lost`: only if one of these prefixes has a name there."""
    rows = await store.rows(
        "SELECT i.prefix, v.name FROM interconnects i JOIN vnis v ON v.vni = i.vni WHERE i.other = ? ORDER BY i.prefix",
        vni,
    )
    gone = [ipaddress.ip_network(text) for text in lost]
    for row in rows:
        if not gone or any(_overlap(ipaddress.ip_network(row["prefix"]), each) for each in gone):
            raise problem(
                "in-use", f"{name} is joined to {row['name']}, with {row['prefix']}; delete that interconnect first"
            )


async def refuse_overlap(store: Database, vni: int, name: str, prefixes: Iterable[str], routes: Iterable[str]) -> None:
    """Raises invalid: what this VNI sees of another is neither its own nor behind it. A wider route, as an exit route is,
    takes nothing away."""
    for seen in await seen_in(store, vni):
        for network in map(ipaddress.ip_network, prefixes):
            if _overlap(network, seen):
                raise problem("invalid", f"{network} overlaps {seen}, which {name} sees of another VNI")
        for network in map(ipaddress.ip_network, routes):
            if _overlap(network, seen) and not _wider(network, seen):
                raise problem("invalid", f"{network} lies in {seen}, which {name} sees of another VNI")


def _name(wanted: PrefixName, of: int, prefixes: list[Network]) -> Name:
    try:
        prefix, seen = ipaddress.ip_network(wanted.prefix), ipaddress.ip_network(wanted.seen)
    except ValueError as error:
        raise problem("invalid", f"not a network: {error}") from None
    if (prefix.version, prefix.prefixlen) != (seen.version, seen.prefixlen):
        raise problem("invalid", f"{prefix} and {seen} are not of one length: each address has one name")
    if not any(_overlap(prefix, own) and own.prefixlen <= prefix.prefixlen for own in prefixes):
        raise problem("invalid", f"{prefix} is no part of {wanted.vni}")
    return Name(of, prefix, seen)


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _wider(one: Network, other: Network) -> bool:
    return one.prefixlen < other.prefixlen


def _records(rows: list[Row]) -> list[InterconnectRecord]:
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        a, b = sorted((row["here"], row["there"]))
        pairs.setdefault((a, b), []).append(row)
    return [
        InterconnectRecord(
            a,
            b,
            [
                PrefixName(row["there"], row["prefix"], row["seen"])
                for row in sorted(of, key=lambda row: (row["there"], row["prefix"]))
            ],
            of[0]["created_at"],
        )
        for (a, b), of in sorted(pairs.items())
    ]


def _subject(record: InterconnectRecord) -> str:
    return f"{record.a} <-> {record.b}"
