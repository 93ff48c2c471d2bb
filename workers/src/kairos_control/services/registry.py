"""The operator's records: join tokens and devices of one tenant."""

from __future__ import annotations

import json

from kairos.api.admin import Device, Reason, TokenCreate

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Row, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.network_changes import change_of
from ..store.records import b64, device_of, device_record, isolation_reason, token_record
from .enrollments import Enrollments
from .journal import Journal
from .network_changes import NetworkChanges
from .sessions import Sessions

_HASH_BYTES = 32
_LIFE_MAX_S = 366 * 86_400


class Registry:
    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        network: NetworkChanges,
        enrollments: Enrollments,
        sessions: Sessions,
    ) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._network = network
        self._enrollments = enrollments
        self._sessions = sessions

    # -- join tokens -------------------------------------------------------------------------------------------------

    async def create_token(self, call: Call) -> Reply:
        wanted = call.decode(TokenCreate)
        if len(wanted.secret_hash) != _HASH_BYTES or wanted.uses < 1 or not 1 <= wanted.life_s <= _LIFE_MAX_S:
            raise problem("invalid", "secret_hash: 32 bytes; uses: at least 1; life_s: 1 second to 366 days")
        await self._check_vnis(wanted.vnis)
        now = int(self._platform.clock())
        row = {
            "token_id": self._platform.entropy(8).hex(), "tenant": self._platform.tenant, "role": wanted.role,
            "secret_hash": b64(wanted.secret_hash), "uses": wanted.uses, "used": 0, "expires_at": now + wanted.life_s,
            "vnis": json.dumps(wanted.vnis), "tags": json.dumps(wanted.tags), "groups": json.dumps(wanted.groups),
            "owner": wanted.owner, "label": wanted.label, "created_at": now,
        }  # fmt: skip
        columns = ", ".join(row)
        marks = ", ".join("?" * len(row))
        await self._platform.database.write([(f"INSERT INTO tokens ({columns}) VALUES ({marks})", tuple(row.values()))])
        self._journal.record(
            "token.created", actor=call.actor, subject=str(row["token_id"]), role=wanted.role, uses=wanted.uses
        )
        return reply(token_record(row), 201)

    async def list_tokens(self, call: Call) -> Reply:
        view = window(call)
        rows = await self._platform.database.rows(
            "SELECT * FROM tokens WHERE tenant = ? AND token_id > ? ORDER BY token_id LIMIT ?",
            self._platform.tenant, view.after, view.fetch,
        )  # fmt: skip
        return view.page_of_rows(rows, "token_id", token_record)

    async def show_token(self, call: Call) -> Reply:
        return reply(token_record(await self._token(call.parameters["token"])))

    async def delete_token(self, call: Call) -> Reply:
        row = await self._token(call.parameters["token"])
        await self._platform.database.write([("DELETE FROM tokens WHERE token_id = ?", (row["token_id"],))])
        self._journal.record("token.deleted", actor=call.actor, subject=row["token_id"])
        return reply(None)

    # -- devices -----------------------------------------------------------------------------------------------------

    async def list_devices(self, call: Call) -> Reply:
        """Those that wait for the operator come first, all of them on the first page."""
        view, tenant = window(call), self._platform.tenant
        rows = await self._platform.database.rows(
            "SELECT * FROM devices WHERE tenant = ? AND node > ? ORDER BY node LIMIT ?", tenant, view.after, view.fetch
        )
        leases: dict[str, list[Row]] = {}
        for lease in await self._platform.database.rows(
            "SELECT * FROM leases WHERE tenant = ? AND node > ? AND node <= ? ORDER BY vni, prefix",
            tenant, view.after, rows[-1]["node"] if rows else "",
        ):  # fmt: skip
            leases.setdefault(lease["node"], []).append(lease)
        online = self._platform.sockets.online()
        waiting = [] if view.after else [self._waiting(row) for row in await self._not_in_yet()]
        return view.page_of_rows(
            rows, "node", lambda row: self._shown(row, leases.get(row["node"], []), row["node"] in online), waiting
        )

    async def show_device(self, call: Call) -> Reply:
        return reply(await self._device(call.parameters["node"]))

    async def approve(self, call: Call) -> Reply:
        await self._enrollments.approve(call.parameters["node"], call.actor)
        return reply(await self._device(call.parameters["node"]))

    async def deny(self, call: Call) -> Reply:
        self._enrollments.deny(call.parameters["node"], call.decode(Reason).reason, call.actor)
        return reply(await self._device(call.parameters["node"]))

    async def revoke(self, call: Call) -> Reply:
        """The device's certificates and sessions die now; its key never enrolls again."""
        node = call.parameters["node"]
        row = await device_of(self._platform.database, self._platform.tenant, node)
        if row is None:
            raise problem("not-found", f"there is no device {node}")
        reason = "deleted by the operator"
        vnis = (await self._store.leases.vnis_of([node])).get(node, [])
        change = change_of(
            vnis={vni for vni, _ in await self._store.subnet_routes.of_node(node)},
            leases=[(vni, node) for vni in vnis],
            revoked=[node],
            gateways=row["role"] == "gateway",
        )
        await self._platform.database.write(
            [
                (
                    "UPDATE devices SET status = 'revoked', reason = ? WHERE tenant = ? AND node = ?",
                    (reason, self._platform.tenant, node),
                ),
                self._store.leases.remove_node(node),
                self._store.subnet_routes.remove_node(node),
                *self._network.revision(change),
            ]
        )
        self._platform.local.write("DELETE FROM enrollments WHERE node = ?", node)
        await self._sessions.revoke(node, reason)
        self._journal.record("device.revoked", actor=call.actor, subject=node, reason=reason)
        await self._network.announce(change)
        return reply(None)

    # -- looking up --------------------------------------------------------------------------------------------------

    async def _check_vnis(self, names: list[str]) -> None:
        rows = await self._platform.database.rows("SELECT name FROM vnis WHERE tenant = ?", self._platform.tenant)
        unknown = set(names) - {row["name"] for row in rows}
        if unknown:
            raise problem("not-found", f"there is no VNI {min(unknown)}")

    async def _token(self, token_id: str) -> Row:
        row = await self._platform.database.first(
            "SELECT * FROM tokens WHERE tenant = ? AND token_id = ?", self._platform.tenant, token_id
        )
        if row is None:
            raise problem("not-found", f"there is no join token {token_id}")
        return row

    async def _device(self, node: str) -> Device:
        row = await device_of(self._platform.database, self._platform.tenant, node)
        if row is not None:
            leases = await self._platform.database.rows(
                "SELECT * FROM leases WHERE tenant = ? AND node = ? ORDER BY vni, prefix", self._platform.tenant, node
            )
            return self._shown(row, leases, node in self._platform.sockets.online())
        for waiting in self._enrollments.held():
            if waiting["node"] == node:
                return self._waiting(waiting)
        raise problem("not-found", f"there is no device {node}")

    def _shown(self, row: Row, leases: list[Row], online: bool) -> Device:
        device = device_record(row, leases, online)
        reason = isolation_reason(self._platform.local, device.node)
        if reason is not None:
            device.status, device.reason = "isolated", reason
        return device

    async def _not_in_yet(self) -> list[Row]:
        """Enrollments that are held or were denied, of keys that are no device."""
        return [
            row
            for row in self._enrollments.held()
            if await device_of(self._platform.database, self._platform.tenant, row["node"]) is None
        ]

    def _waiting(self, row: Row) -> Device:
        """An enrollment that is held or was denied, as a device."""
        return Device(
            row["node"], self._platform.tenant, row["role"], row["name"], row["status"], b"", reason=row["reason"],
            enrollment=row["enrollment"],
        )  # fmt: skip
