"""Who administers: the root of `kairos fabric init`, and scoped credentials that are one role in one tenant, or in all of them.

The rows are read anew for every call, so a credential that was revoked is worth nothing with the next one.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from kairos.api.admin import ROLES, AdminCreate, AdminRecord
from kairos.errors import BadMessage
from kairos.identity.admin_credential import ID_BYTES, parse_admin_credential_untrusted
from kairos.identity.spiffe import is_name

from .http import Call, Reply, reply
from .journal import Journal
from .paging import window
from .ports import Platform, Row, Statement
from .problems import problem
from .records import b64, unb64
from .routing import Caller

ROOT = "root"
_HASH_BYTES = 32
_LIFE_MAX_S = 366 * 86_400
_NO_HASH = bytes(_HASH_BYTES)

# What a route asks for, weakest first: a stronger role may do all that a weaker one may.
_RANK = {ROOT: len(ROLES)} | {role: rank for rank, role in enumerate(ROLES)}
_NEEDS = {
    Caller.VIEWER: "viewer",
    Caller.NODE_OR_ADMIN: "viewer",
    Caller.OPERATOR: "operator",
    Caller.ADMIN: "tenant-admin",
    Caller.ROOT: ROOT,
}


@dataclass(frozen=True, slots=True)
class Administrator:
    """actor: as the audit names it. tenant: the only one it is for; empty: all. expires_at: 0: never."""

    actor: str
    role: str
    tenant: str = ""
    expires_at: int = 0


def bearer(call: Call) -> str:
    """The Authorization header's token; empty without one."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


async def require_administrator(platform: Platform, caller: Caller, call: Call, tenant: str = "") -> None:
    """Sets call.administrator. Raises unauthorized (nobody we know), out-of-scope (too weak, or for another tenant).
    tenant: whose resource it is; empty: the fabric's."""
    known = await _administrator(platform, call)
    if known is None:
        raise problem("unauthorized", "this needs an admin credential: Authorization: Bearer <credential>")
    call.administrator = known
    if tenant and known.tenant not in ("", tenant):
        raise problem("out-of-scope", f"this credential is for tenant {known.tenant} only")
    needed = _NEEDS[caller]
    if _RANK[known.role] < _RANK[needed]:
        raise problem("out-of-scope", f"this credential is of a {known.role}; its role would have to be {needed}")


async def _administrator(platform: Platform, call: Call) -> Administrator | None:
    token = bearer(call)
    shown, settings = hashlib.sha256(token.encode()).hexdigest(), platform.settings
    accepted = (settings.admin_token_hash, settings.previous_admin_token_hash)
    if any(hmac.compare_digest(shown, each) for each in accepted):
        return Administrator(ROOT, ROOT)
    try:
        credential = parse_admin_credential_untrusted(token)
    except BadMessage:
        return None
    row = await platform.store.first("SELECT * FROM admins WHERE admin = ?", credential.admin)
    kept = unb64(row["secret_hash"]) if row else _NO_HASH
    same = hmac.compare_digest(hashlib.sha256(credential.secret).digest(), kept)
    if row is None or not same or row["expires_at"] <= platform.clock():
        return None
    return Administrator(f"admin:{row['name']}", row["role"], row["tenant"], row["expires_at"])


# -- their records: of one tenant (in its object, `journal` is its own), or of all ------------------------------------------


async def create(platform: Platform, journal: Journal, call: Call, tenant: str) -> Reply:
    """Nobody makes a credential that outlives the own one."""
    assert call.administrator is not None
    wanted, now, maker = call.decode(AdminCreate), int(platform.clock()), call.administrator
    if len(wanted.secret_hash) != _HASH_BYTES or not is_name(wanted.name) or not 1 <= wanted.life_s <= _LIFE_MAX_S:
        raise problem("invalid", "secret_hash: 32 bytes; name: a DNS label; life_s: 1 second to 366 days")
    if maker.expires_at and now + wanted.life_s > maker.expires_at:
        raise problem("invalid", f"life_s: your own credential ends in {maker.expires_at - now} s, this one no later")
    row = {
        "admin": platform.entropy(ID_BYTES).hex(), "tenant": tenant, "name": wanted.name, "role": wanted.role,
        "secret_hash": b64(wanted.secret_hash), "created_at": now, "created_by": maker.actor,
        "expires_at": now + wanted.life_s,
    }  # fmt: skip
    statement: Statement = (
        f"INSERT INTO admins ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
    )  # fmt: skip
    await platform.store.write([statement])
    journal.record(
        "admin.created", actor=maker.actor, subject=str(row["admin"]), name=wanted.name, role=wanted.role,
        expires_at=row["expires_at"], all_tenants=not tenant,
    )  # fmt: skip
    return reply(_record(row), 201)


async def listing(platform: Platform, call: Call, tenant: str) -> Reply:
    view = window(call)
    rows = await platform.store.rows(
        "SELECT * FROM admins WHERE tenant = ? AND admin > ? ORDER BY admin LIMIT ?", tenant, view.after, view.fetch
    )
    return view.page(rows, "admin", _record)


async def revoke(platform: Platform, journal: Journal, call: Call, tenant: str) -> Reply:
    assert call.administrator is not None
    admin = call.parameters["admin"]
    row = await platform.store.first("SELECT * FROM admins WHERE admin = ? AND tenant = ?", admin, tenant)
    if row is None:
        raise problem("not-found", f"there is no admin credential {admin}")
    await platform.store.write([("DELETE FROM admins WHERE admin = ?", (admin,))])
    journal.record(
        "admin.revoked", actor=call.administrator.actor, subject=admin, name=row["name"], role=row["role"],
        all_tenants=not tenant,
    )  # fmt: skip
    return reply(None)


def _record(row: Row) -> AdminRecord:
    return AdminRecord(
        row["admin"], row["name"], row["role"], row["tenant"], row["created_at"], row["created_by"], row["expires_at"]
    )
