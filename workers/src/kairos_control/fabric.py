"""What belongs to no tenant: the fabric's own facts, and the list of tenants."""

from __future__ import annotations

from kairos import __version__
from kairos.api.admin import TenantCreate
from kairos.api.enrollment import FabricInfo
from kairos.identity.spiffe import is_name

from . import administrators
from .http import Call, Reply, reply
from .journal import EveryJournal, Journal
from .paging import window
from .ports import ConstraintError, Platform
from .problems import problem
from .records import tenant_record

_ENDED_KEPT_S = 30 * 86_400


async def info(platform: Platform, call: Call) -> Reply:
    settings = platform.settings
    return reply(
        FabricInfo(
            __version__, settings.suite.name, settings.trust_domain, settings.relay_url, settings.root.der,
            settings.issuer.der, settings.policy_key,
        )
    )  # fmt: skip


async def health(platform: Platform, call: Call) -> Reply:
    """It answers, and its database does."""
    await platform.store.first("SELECT count(*) FROM tenants")
    return reply({"status": "ok"})


async def create_tenant(platform: Platform, call: Call) -> Reply:
    wanted = call.decode(TenantCreate)
    if not is_name(wanted.tenant):
        raise problem("invalid", "a tenant is a DNS label: lower case letters, digits, inner hyphens, at most 63")
    row = {"tenant": wanted.tenant, "created_at": int(platform.clock())}
    try:
        await platform.store.write([("INSERT INTO tenants (tenant, created_at) VALUES (?, ?)", tuple(row.values()))])
    except ConstraintError:
        raise problem("exists", f"there is a tenant {wanted.tenant}") from None
    journal = Journal(platform, wanted.tenant)
    journal.record("tenant.created", actor=call.actor, subject=wanted.tenant)
    await journal.flush()
    return reply(tenant_record(row), 201)


async def list_tenants(platform: Platform, call: Call) -> Reply:
    """An administrator of one tenant sees that one."""
    view = window(call)
    own = call.administrator.tenant if call.administrator else ""
    rows = await platform.store.rows(
        "SELECT * FROM tenants WHERE tenant > ? AND ? IN ('', tenant) ORDER BY tenant LIMIT ?",
        view.after,
        own,
        view.fetch,
    )
    return view.page(rows, "tenant", tenant_record)


async def create_admin(platform: Platform, call: Call) -> Reply:
    journal = EveryJournal(platform)
    made = await administrators.create(platform, journal, call, "")
    await journal.flush()
    return made


async def list_admins(platform: Platform, call: Call) -> Reply:
    return await administrators.listing(platform, call, "")


async def revoke_admin(platform: Platform, call: Call) -> Reply:
    journal = EveryJournal(platform)
    done = await administrators.revoke(platform, journal, call, "")
    await journal.flush()
    return done


async def forget_ended(platform: Platform) -> None:
    """Housekeeping, by the cron: certificates and join tokens that ended long ago; the audit remembers them."""
    long_ago = (int(platform.clock()) - _ENDED_KEPT_S,)
    await platform.store.write(
        [
            ("DELETE FROM certificates WHERE not_after < ?", long_ago),
            ("DELETE FROM admins WHERE expires_at < ?", long_ago),
            ("DELETE FROM tokens WHERE expires_at < ?", long_ago),
        ]
    )
