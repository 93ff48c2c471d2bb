"""The operator's records: VNIs, join tokens and devices of one tenant."""

from __future__ import annotations

import ipaddress
import json

import msgspec

from kairos.api.admin import Device, Page, Reason, TokenCreate, VniCreate
from kairos.constants import VNI_MAX
from kairos.identity.spiffe import is_name

from .enrollment import Enrollments
from .http import Call, Reply, reply
from .journal import Journal
from .leases import lease_statements
from .ports import ConstraintError, Row, Statement, TenantPlatform
from .problems import problem
from .pushes import Pushes
from .records import b64, device_of, device_record, gateways_of, token_record, vni_record
from .sessions import Sessions

_MTU = range(1280, 9001)
_HASH_BYTES = 32
_LIFE_MAX_S = 366 * 86_400


class Registry:
    def __init__(
        self, platform: TenantPlatform, journal: Journal, pushes: Pushes, enrollments: Enrollments, sessions: Sessions
    ) -> None:
        self._platform = platform
        self._journal = journal
        self._pushes = pushes
        self._enrollments = enrollments
        self._sessions = sessions

    # -- VNIs --------------------------------------------------------------------------------------------------------

    async def create_vni(self, call: Call) -> Reply:
        wanted = call.decode(VniCreate)
        prefixes = _checked_vni(wanted)
        vni = wanted.vni or await self._next_vni()
        row = {
            "vni": vni, "name": wanted.name, "tenant": self._platform.tenant, "prefixes": json.dumps(prefixes),
            "mtu": wanted.mtu, "dns_suffix": wanted.dns_suffix, "created_at": int(self._platform.clock()),
            "routes": json.dumps([msgspec.to_builtins(route) for route in wanted.routes]),
        }  # fmt: skip
        await self._check_routes(wanted)
        statements: list[Statement] = [
            (
                "INSERT INTO vnis (vni, tenant, name, prefixes, mtu, dns_suffix, routes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                tuple(
                    row[key]
                    for key in ("vni", "tenant", "name", "prefixes", "mtu", "dns_suffix", "routes", "created_at")
                ),
            )
        ]
        try:
            await self._platform.store.write(statements)
        except ConstraintError:
            raise problem("exists", f"a VNI named {wanted.name} or numbered {vni} exists") from None
        for gateway in await gateways_of(self._platform.store, self._platform.tenant):
            await self._platform.store.write(
                await lease_statements(self._platform, self._platform.tenant, gateway["node"], [row])
            )
        self._journal.record("vni.created", actor="operator", subject=wanted.name, vni=vni, prefixes=prefixes)
        await self._pushes.network_changed()
        return reply(vni_record(row), 201)

    async def list_vnis(self, call: Call) -> Reply:
        rows = await self._platform.store.rows(
            "SELECT v.*, (SELECT count(DISTINCT node) FROM leases l WHERE l.vni = v.vni) AS members FROM vnis v"
            " WHERE tenant = ? ORDER BY name",
            self._platform.tenant,
        )
        return reply(Page([vni_record(row, row["members"]) for row in rows]))

    async def show_vni(self, call: Call) -> Reply:
        row = await self._vni(call.parameters["name"])
        count = await self._platform.store.first(
            "SELECT count(DISTINCT node) AS members FROM leases WHERE vni = ?", row["vni"]
        )
        return reply(vni_record(row, count["members"] if count else 0))

    async def delete_vni(self, call: Call) -> Reply:
        row = await self._vni(call.parameters["name"])
        await self._platform.store.write(
            [
                ("DELETE FROM leases WHERE vni = ?", (row["vni"],)),
                ("DELETE FROM lease_cursors WHERE vni = ?", (row["vni"],)),
                ("DELETE FROM vnis WHERE vni = ?", (row["vni"],)),
            ]
        )
        self._journal.record("vni.deleted", actor="operator", subject=row["name"], vni=row["vni"])
        await self._pushes.network_changed()
        return reply(None)

    # -- join tokens -------------------------------------------------------------------------------------------------

    async def create_token(self, call: Call) -> Reply:
        wanted = call.decode(TokenCreate)
        if len(wanted.secret_hash) != _HASH_BYTES or wanted.uses < 1 or not 1 <= wanted.life_s <= _LIFE_MAX_S:
            raise problem("invalid", "secret_hash: 32 bytes; uses: at least 1; life_s: 1 second to 366 days")
        for name in wanted.vnis:
            await self._vni(name)
        now = int(self._platform.clock())
        row = {
            "token_id": self._platform.entropy(8).hex(), "tenant": self._platform.tenant, "role": wanted.role,
            "secret_hash": b64(wanted.secret_hash), "uses": wanted.uses, "used": 0, "expires_at": now + wanted.life_s,
            "vnis": json.dumps(wanted.vnis), "tags": json.dumps(wanted.tags), "groups": json.dumps(wanted.groups),
            "owner": wanted.owner, "label": wanted.label, "created_at": now,
        }  # fmt: skip
        columns = ", ".join(row)
        marks = ", ".join("?" * len(row))
        await self._platform.store.write([(f"INSERT INTO tokens ({columns}) VALUES ({marks})", tuple(row.values()))])
        self._journal.record(
            "token.created", actor="operator", subject=str(row["token_id"]), role=wanted.role, uses=wanted.uses
        )
        return reply(token_record(row), 201)

    async def list_tokens(self, call: Call) -> Reply:
        rows = await self._platform.store.rows(
            "SELECT * FROM tokens WHERE tenant = ? ORDER BY created_at, token_id", self._platform.tenant
        )
        return reply(Page([token_record(row) for row in rows]))

    async def show_token(self, call: Call) -> Reply:
        return reply(token_record(await self._token(call.parameters["token"])))

    async def delete_token(self, call: Call) -> Reply:
        row = await self._token(call.parameters["token"])
        await self._platform.store.write([("DELETE FROM tokens WHERE token_id = ?", (row["token_id"],))])
        self._journal.record("token.deleted", actor="operator", subject=row["token_id"])
        return reply(None)

    # -- devices -----------------------------------------------------------------------------------------------------

    async def list_devices(self, call: Call) -> Reply:
        rows = await self._platform.store.rows(
            "SELECT * FROM devices WHERE tenant = ? ORDER BY enrolled_at, node", self._platform.tenant
        )
        leases = await self._platform.store.rows("SELECT * FROM leases WHERE tenant = ?", self._platform.tenant)
        online = self._platform.sockets.online()
        known = {row["node"] for row in rows}
        listed = [
            device_record(row, [lease for lease in leases if lease["node"] == row["node"]], row["node"] in online)
            for row in rows
        ]
        waiting = [self._waiting(row) for row in self._enrollments.held() if row["node"] not in known]
        return reply(Page(waiting + listed))

    async def show_device(self, call: Call) -> Reply:
        return reply(await self._device(call.parameters["node"]))

    async def approve(self, call: Call) -> Reply:
        await self._enrollments.approve(call.parameters["node"])
        return reply(await self._device(call.parameters["node"]))

    async def deny(self, call: Call) -> Reply:
        self._enrollments.deny(call.parameters["node"], call.decode(Reason).reason)
        return reply(await self._device(call.parameters["node"]))

    async def revoke(self, call: Call) -> Reply:
        """The device's certificates and sessions die now; its key never enrolls again."""
        node = call.parameters["node"]
        row = await device_of(self._platform.store, self._platform.tenant, node)
        if row is None:
            raise problem("not-found", f"there is no device {node}")
        reason = "deleted by the operator"
        await self._platform.store.write(
            [
                (
                    "UPDATE devices SET status = 'revoked', reason = ? WHERE tenant = ? AND node = ?",
                    (reason, self._platform.tenant, node),
                ),
                ("DELETE FROM leases WHERE tenant = ? AND node = ?", (self._platform.tenant, node)),
            ]
        )
        self._platform.local.write("DELETE FROM enrollments WHERE node = ?", node)
        await self._sessions.revoke(node, reason)
        self._journal.record("device.revoked", actor="operator", subject=node, reason=reason)
        await self._pushes.network_changed()
        return reply(None)

    # -- looking up --------------------------------------------------------------------------------------------------

    async def _vni(self, name: str) -> Row:
        row = await self._platform.store.first(
            "SELECT * FROM vnis WHERE tenant = ? AND (name = ? OR CAST(vni AS TEXT) = ?)",
            self._platform.tenant,
            name,
            name,
        )
        if row is None:
            raise problem("not-found", f"there is no VNI {name}")
        return row

    async def _token(self, token_id: str) -> Row:
        row = await self._platform.store.first(
            "SELECT * FROM tokens WHERE tenant = ? AND token_id = ?", self._platform.tenant, token_id
        )
        if row is None:
            raise problem("not-found", f"there is no join token {token_id}")
        return row

    async def _device(self, node: str) -> Device:
        row = await device_of(self._platform.store, self._platform.tenant, node)
        if row is not None:
            leases = await self._platform.store.rows(
                "SELECT * FROM leases WHERE tenant = ? AND node = ? ORDER BY vni, prefix", self._platform.tenant, node
            )
            return device_record(row, leases, node in self._platform.sockets.online())
        for waiting in self._enrollments.held():
            if waiting["node"] == node:
                return self._waiting(waiting)
        raise problem("not-found", f"there is no device {node}")

    def _waiting(self, row: Row) -> Device:
        """An enrollment that is held or was denied, as a device."""
        return Device(
            row["node"], self._platform.tenant, row["role"], row["name"], row["status"], b"", reason=row["reason"],
            enrollment=row["enrollment"],
        )  # fmt: skip

    async def _next_vni(self) -> int:
        row = await self._platform.store.first("SELECT max(vni) AS last FROM vnis")
        return (row["last"] or 0) + 1 if row else 1

    async def _check_routes(self, wanted: VniCreate) -> None:
        gateways = {row["node"] for row in await gateways_of(self._platform.store, self._platform.tenant)}
        for route in wanted.routes:
            if route.via not in gateways:
                raise problem("invalid", f"route {route.prefix}: {route.via} is no gateway of this tenant")


def _checked_vni(wanted: VniCreate) -> list[str]:
    """The prefixes in canonical form. Raises invalid."""
    if not is_name(wanted.name) or not 0 <= wanted.vni <= VNI_MAX or wanted.mtu not in _MTU:
        raise problem("invalid", f"name: a DNS label; vni: up to {VNI_MAX}; mtu: {_MTU.start} to {_MTU.stop - 1}")
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
    return [str(network) for network in networks]
