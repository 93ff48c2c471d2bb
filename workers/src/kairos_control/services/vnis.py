"""VNIs of one tenant: what they are, and who is in them."""

from __future__ import annotations

import ipaddress
import json

import msgspec

from kairos.api.admin import MemberRecord, MemberWanted, VniCreate, VniRecord
from kairos.constants import VNI_MAX
from kairos.identity.spiffe import is_gateway, is_name

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import ConstraintError, Row, Statement, TenantPlatform
from ..problems import problem
from ..store.records import device_of, gateways_of, strings, vni_record
from .interconnects import refuse_overlap, refuse_where_joined
from .journal import Journal
from .leases import LeasePlan
from .pushes import Pushes
from .sessions import Sessions

_MTU = range(1280, 9001)
_SUFFIX_MAX = 180  # room for a member's name before it
_TRIES = 5  # for a number that another tenant may take at the same moment
_INSERT = "INSERT INTO vnis (vni, tenant, name, prefixes, mtu, dns_suffix, routes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_UPDATE = "UPDATE vnis SET prefixes = ?, mtu = ?, dns_suffix = ?, routes = ? WHERE vni = ?"
_COUNTED = "SELECT v.*, (SELECT count(DISTINCT node) FROM leases l WHERE l.vni = v.vni) AS members FROM vnis v"


class Vnis:
    def __init__(self, platform: TenantPlatform, journal: Journal, pushes: Pushes, sessions: Sessions) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes
        self._sessions = sessions

    async def create(self, call: Call) -> Reply:
        wanted = await self._checked(call)
        for _ in range(_TRIES):
            vni = wanted.vni or await self._next_number()
            try:
                await self._platform.database.write(await self._creation(wanted, vni))
            except ConstraintError:
                if wanted.vni or await self._row_named(wanted.name) is not None:
                    break
            else:
                record = await self._record(wanted.name)
                self._journal.record(
                    "vni.created", actor=call.actor, subject=wanted.name, after=msgspec.to_builtins(record)
                )
                await self._told(await self._members(vni))
                return reply(record, 201)
        raise problem("exists", f"a VNI named {wanted.name} or numbered {vni} exists")

    async def change(self, call: Call) -> Reply:
        """All of it anew, but its number. Members stay; who a selector names becomes one. A prefix goes when no endpoint has an
        address in it."""
        wanted = await self._checked(call)
        before = await self._record(call.parameters["name"])
        if wanted.name != before.name or wanted.vni not in (0, before.vni):
            raise problem("invalid", f"{before.name} keeps its name and its number, {before.vni}")
        store, routes = self._platform.database, [route.prefix for route in wanted.routes]
        if lost := set(before.prefixes) - set(wanted.prefixes):
            await refuse_where_joined(store, before.vni, before.name, lost)
        await refuse_overlap(store, before.vni, before.name, wanted.prefixes, routes)
        row = {"vni": before.vni, "prefixes": json.dumps(wanted.prefixes)}
        statements: list[Statement] = [
            (_UPDATE, (row["prefixes"], wanted.mtu, wanted.dns_suffix, _as_json(wanted), before.vni)),
            ("DELETE FROM vni_selectors WHERE vni = ?", (before.vni,)),
            *_selectors(wanted, before.vni),
        ]
        for prefix in lost:
            statements.append(await self._withdrawal(before.vni, prefix))
        plan = LeasePlan(self._platform, self._platform.tenant, row)
        members = await self._members(before.vni)
        for node in dict.fromkeys([*members, *await self._selected(wanted.selectors)]):
            await plan.give(node)
        await self._platform.database.write([*statements, *plan.statements])
        after = await self._record(before.name)
        if after != before:
            self._journal.record(
                "vni.changed", actor=call.actor, subject=before.name,
                before=msgspec.to_builtins(before), after=msgspec.to_builtins(after),
            )  # fmt: skip
            await self._told(await self._members(before.vni))
        return reply(after)

    async def listing(self, call: Call) -> Reply:
        view = window(call)
        rows = await self._platform.database.rows(
            f"{_COUNTED} WHERE tenant = ? AND name > ? ORDER BY name LIMIT ?",
            self._platform.tenant,
            view.after,
            view.fetch,
        )
        return view.page_of_rows([await self._with_selectors(row) for row in rows], "name", _shown)

    async def show(self, call: Call) -> Reply:
        return reply(await self._record(call.parameters["name"]))

    async def delete(self, call: Call) -> Reply:
        before = await self._record(call.parameters["name"])
        await refuse_where_joined(self._platform.database, before.vni, before.name)
        members = await self._members(before.vni)
        tables = ("leases", "lease_cursors", "given_addresses", "vni_selectors", "routes", "vnis")
        await self._platform.database.write([(f"DELETE FROM {table} WHERE vni = ?", (before.vni,)) for table in tables])
        self._journal.record("vni.deleted", actor=call.actor, subject=before.name, before=msgspec.to_builtins(before))
        await self._told(members)
        return reply(None)

    # -- members -----------------------------------------------------------------------------------------------------

    async def list_members(self, call: Call) -> Reply:
        row, view = await self._row(call.parameters["name"]), window(call)
        rows = await self._platform.database.rows(
            "SELECT d.node, d.role, d.name, json_group_array(l.address) AS addresses FROM leases l"
            " JOIN devices d ON d.tenant = l.tenant AND d.node = l.node"
            " WHERE l.vni = ? AND l.node > ? GROUP BY l.node ORDER BY l.node LIMIT ?",
            row["vni"], view.after, view.fetch,
        )  # fmt: skip
        return view.page_of_rows(rows, "node", _member)

    async def put_member(self, call: Call) -> Reply:
        """A member from now on, with the addresses that were asked for and one of every other prefix."""
        wanted = call.decode(MemberWanted)
        row = await self._row(call.parameters["name"])
        device = await self._device(call.parameters["node"])
        before = await self._addresses(row["vni"], device["node"])
        plan = LeasePlan(self._platform, self._platform.tenant, row)
        for address in wanted.addresses:
            await plan.give_chosen(device["node"], address)
        await plan.give(device["node"])
        await self._platform.database.write(plan.statements)
        after = await self._addresses(row["vni"], device["node"])
        if after != before:
            self._journal.record(
                "member.changed" if before else "member.added", actor=call.actor, subject=device["node"], vni=row["vni"],
                before=before, after=after,
            )  # fmt: skip
            await self._told([device["node"]])
        return reply(MemberRecord(device["node"], device["role"], device["name"], after))

    async def remove_member(self, call: Call) -> Reply:
        row, node = await self._row(call.parameters["name"]), call.parameters["node"]
        before = await self._addresses(row["vni"], node)
        if not before:
            raise problem("not-found", f"{node} is no member of {row['name']}")
        if is_gateway(node):
            raise problem("in-use", "a gateway is in every VNI of its tenant; revoke it, or delete the VNI")
        await self._platform.database.write(
            [(f"DELETE FROM {table} WHERE vni = ? AND node = ?", (row["vni"], node)) for table in ("leases", "routes")]
        )
        self._journal.record("member.removed", actor=call.actor, subject=node, vni=row["vni"], before=before)
        await self._told([node])
        return reply(None)

    async def _told(self, nodes: list[str]) -> None:
        """The sessions of these nodes are for other VNIs now, and everyone fetches the network."""
        for node in nodes:
            await self._sessions.refresh(node)
        await self._pushes.network_changed()

    # -- what is written ---------------------------------------------------------------------------------------------

    async def _creation(self, wanted: VniCreate, vni: int) -> list[Statement]:
        platform, prefixes = self._platform, json.dumps(wanted.prefixes)
        values = (
            vni, platform.tenant, wanted.name, prefixes, wanted.mtu, wanted.dns_suffix, _as_json(wanted), int(platform.clock()),
        )  # fmt: skip
        plan = LeasePlan(platform, platform.tenant, {"vni": vni, "prefixes": prefixes})
        gateways = [row["node"] for row in await gateways_of(platform.database, platform.tenant)]
        for node in dict.fromkeys([*gateways, *await self._selected(wanted.selectors)]):
            await plan.give(node)
        return [(_INSERT, values), *_selectors(wanted, vni), *plan.statements]

    async def _withdrawal(self, vni: int, prefix: str) -> Statement:
        """Leases in a prefix that goes. What was given stays on record: the prefix may come back."""
        endpoint = await self._platform.database.first(
            "SELECT node FROM leases WHERE vni = ? AND prefix = ? AND node NOT LIKE 'gw-%'", vni, prefix
        )
        if endpoint is not None:
            raise problem("in-use", f"{endpoint['node']} has an address in {prefix}; remove it from the VNI first")
        return ("DELETE FROM leases WHERE vni = ? AND prefix = ?", (vni, prefix))

    async def _selected(self, selectors: list[str]) -> list[str]:
        """Active devices that a selector names."""
        nodes: list[str] = []
        for selector in selectors:
            kind, _, value = selector.partition(":")
            column = "tags" if kind == "tag" else "groups"
            rows = await self._platform.database.rows(
                f"SELECT node FROM devices, json_each({column}) WHERE tenant = ? AND status = 'active' AND value = ?",
                self._platform.tenant, value,
            )  # fmt: skip
            nodes += [row["node"] for row in rows]
        return nodes

    async def _checked(self, call: Call) -> VniCreate:
        """Raises a ProblemError unless it makes sense; prefixes in canonical form."""
        wanted = checked_vni(call.decode(VniCreate))
        gateways = {row["node"] for row in await gateways_of(self._platform.database, self._platform.tenant)}
        for route in wanted.routes:
            if route.via not in gateways:
                raise problem("invalid", f"route {route.prefix}: {route.via} is no gateway of this tenant")
        return wanted

    # -- what is read ------------------------------------------------------------------------------------------------

    async def _row_named(self, name: str) -> Row | None:
        """By name or number."""
        return await self._platform.database.first(
            f"{_COUNTED} WHERE tenant = ? AND (name = ? OR CAST(vni AS TEXT) = ?)", self._platform.tenant, name, name
        )

    async def _row(self, name: str) -> Row:
        row = await self._row_named(name)
        if row is None:
            raise problem("not-found", f"there is no VNI {name}")
        return row

    async def _record(self, name: str) -> VniRecord:
        return _shown(await self._with_selectors(await self._row(name)))

    async def _with_selectors(self, row: Row) -> Row:
        rows = await self._platform.database.rows(
            "SELECT selector FROM vni_selectors WHERE vni = ? ORDER BY selector", row["vni"]
        )
        return {**row, "selectors": [each["selector"] for each in rows]}

    async def _members(self, vni: int) -> list[str]:
        rows = await self._platform.database.rows("SELECT DISTINCT node FROM leases WHERE vni = ? ORDER BY node", vni)
        return [row["node"] for row in rows]

    async def _addresses(self, vni: int, node: str) -> list[str]:
        sql = "SELECT address FROM leases WHERE vni = ? AND node = ? ORDER BY prefix"
        return [row["address"] for row in await self._platform.database.rows(sql, vni, node)]

    async def _device(self, node: str) -> Row:
        row = await device_of(self._platform.database, self._platform.tenant, node)
        if row is None or row["status"] == "revoked":
            raise problem("not-found", f"there is no device {node}")
        return row

    async def _next_number(self) -> int:
        row = await self._platform.database.first("SELECT max(vni) AS last FROM vnis")
        number = (row["last"] or 0) + 1 if row else 1
        if number > VNI_MAX:
            raise problem("invalid", f"the number {VNI_MAX} is taken: choose one that is free, with `vni`")
        return number


def checked_vni(wanted: VniCreate) -> VniCreate:
    """With its prefixes in canonical form. Raises invalid."""
    if not is_name(wanted.name) or not 0 <= wanted.vni <= VNI_MAX or wanted.mtu not in _MTU:
        raise problem("invalid", f"name: a DNS label; vni: up to {VNI_MAX}; mtu: {_MTU.start} to {_MTU.stop - 1}")
    if wanted.dns_suffix and not _is_suffix(wanted.dns_suffix):
        raise problem("invalid", f"dns_suffix {wanted.dns_suffix}: a domain in lower case, as in office.internal")
    for selector in wanted.selectors:
        kind, _, value = selector.partition(":")
        if kind not in ("tag", "group") or not value:
            raise problem("invalid", f"selector {selector}: tag:<tag> or group:<group>")
    try:
        networks = [ipaddress.ip_network(prefix) for prefix in wanted.prefixes]
        for route in wanted.routes:
            ipaddress.ip_network(route.prefix)
    except ValueError as error:
        raise problem("invalid", f"not a network: {error}") from None
    if not networks:
        raise problem("invalid", "a VNI needs at least one prefix")
    for index, network in enumerate(networks):
        for other in networks[:index]:
            if network.version == other.version and network.overlaps(other):
                raise problem("invalid", f"{network} and {other} overlap")
    return msgspec.structs.replace(wanted, prefixes=[str(network) for network in networks])


def _is_suffix(text: str) -> bool:
    return len(text) <= _SUFFIX_MAX and all(map(is_name, text.split(".")))


def _as_json(wanted: VniCreate) -> str:
    return json.dumps([msgspec.to_builtins(route) for route in wanted.routes])


def _selectors(wanted: VniCreate, vni: int) -> list[Statement]:
    sql = "INSERT INTO vni_selectors (vni, selector) VALUES (?, ?)"
    return [(sql, (vni, selector)) for selector in sorted(set(wanted.selectors))]


def _shown(row: Row) -> VniRecord:
    return msgspec.structs.replace(vni_record(row, row["members"]), selectors=row["selectors"])


def _member(row: Row) -> MemberRecord:
    return MemberRecord(row["node"], row["role"], row["name"], strings(row["addresses"]))
