"""One tenant's control plane: its services, put together, and its routes. Runs inside the tenant's Durable Object, which serializes it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from kairos.api.admin import (
    AdminCreate,
    AdminRecord,
    AuditRetention,
    CertificateRecord,
    Device,
    GatewayRank,
    GatewayRecord,
    InterconnectCreate,
    InterconnectRecord,
    IsolationRecord,
    MemberRecord,
    MemberWanted,
    Page,
    PostureRecord,
    Reason,
    RouteApproval,
    RouteRecord,
    Tenant,
    TokenCreate,
    TokenRecord,
    VniCreate,
    VniRecord,
)
from kairos.api.enrollment import Certificate, Challenge, ChallengeResponse, Enrollment, EnrollRequest, RenewRequest
from kairos.api.push import Receipt, Welcome, encode, parse_to_fabric_untrusted
from kairos.api.session import (
    Advertisement,
    Introspected,
    Introspection,
    IsolationReport,
    Network,
    PolicyRecord,
    PolicyUpload,
    PostureReport,
    SessionGrant,
    SessionRequest,
)
from kairos.api.telemetry import Sample
from kairos.audit.event import Accepted, EventBatch
from kairos.audit.head import Appended, Consistency, EventProof, SealedSegment, SignedHead
from kairos.constants import BUNDLE_MAX
from kairos.errors import BadMessage
from kairos.identity.spiffe import is_gateway

from . import administrators, audit, network
from .administrators import bearer, require_administrator
from .admission import Admission
from .audit_log import AuditLog
from .authentication import require_internal, require_node
from .certificates import Certificates
from .clocks import Clocks
from .enrollment import Enrollments
from .gateways import Gateways
from .http import Call, Reply, reply
from .interconnects import Interconnects
from .isolation import Isolations
from .journal import Journal
from .limits import DEVICE, SOURCE, Limits
from .outbox import Outbox
from .policy import Policies
from .ports import TenantPlatform
from .posture import Postures
from .problems import problem
from .pushes import Pushes
from .records import tenant_record
from .refusals import Refusals
from .registry import Registry
from .retention import Retention
from .routes import Routes
from .routing import Caller, Route
from .sessions import Sessions
from .telemetry import Telemetry
from .vnis import Vnis

_ENROLLMENT_KEPT_S = 86_400


class TenantService:
    """Everything a tenant's object does, over its platform."""

    def __init__(self, platform: TenantPlatform) -> None:
        self.outbox = Outbox(platform.queue, platform.local, platform.clock)
        self.platform = platform = replace(platform, queue=self.outbox)
        self.turn = asyncio.Lock()  # D1 is awaited between reading and writing
        self.journal = Journal(platform, platform.tenant)
        self.refusals = Refusals(self.journal, platform.clock)
        self.clocks = Clocks(self.journal, platform.clock)
        self.limits = Limits(platform.clock)
        self.pushes = Pushes(platform)
        self.audit_log = AuditLog(platform, self.pushes, self.outbox)
        self.retention = Retention(platform, self.journal, self.audit_log)
        self.admission = Admission(platform)
        self.postures = Postures(platform, self.pushes)
        self.telemetry = Telemetry(platform, self.limits)
        self.sessions = Sessions(platform, self.journal, self.pushes, self.postures, self.limits)
        self.certificates = Certificates(platform, self.journal, self.pushes)
        self.enrollments = Enrollments(
            platform, self.journal, self.pushes, self.admission, self.limits, self.certificates
        )
        self.policies = Policies(platform, self.journal, self.pushes)
        self.vnis = Vnis(platform, self.journal, self.pushes, self.sessions)
        self.interconnects = Interconnects(platform, self.journal, self.pushes)
        self.routes = Routes(platform, self.journal, self.pushes)
        self.registry = Registry(platform, self.journal, self.pushes, self.enrollments, self.sessions)
        self.gateways = Gateways(platform, self.journal, self.pushes)
        self.isolations = Isolations(platform, self.journal, self.pushes, self.sessions)

    async def authenticate(self, route: Route, call: Call) -> None:
        """Raises a ProblemError unless the caller is one that the route is for."""
        settings = self.platform.settings
        if call.source:
            self.limits.take(SOURCE, call.source)
        if route.caller is Caller.NODE or (route.caller is Caller.NODE_OR_ADMIN and not bearer(call)):
            node = await require_node(self.platform, call)
            self.limits.take(DEVICE, node)
            self.clocks.seen(node, call.ahead_s)
            return  # where there is a device, there is a tenant
        if route.caller is Caller.INTERNAL:
            require_internal(settings, call)
            return  # the last events of a tenant come when it is gone
        if route.caller not in (Caller.ANYONE, Caller.JOINING):
            await require_administrator(self.platform, route.caller, call, self.platform.tenant)
        if await self.platform.store.first("SELECT 1 FROM tenants WHERE tenant = ?", self.platform.tenant) is None:
            raise problem("not-found", f"there is no tenant {self.platform.tenant}")

    async def welcome(self, node: str) -> str:
        """The first message on a node's events socket."""
        platform = self.platform
        row = await platform.store.first("SELECT revision FROM tenants WHERE tenant = ?", platform.tenant)
        record = await self.policies.current()
        sessions = self.sessions.current() if is_gateway(node) else []
        return encode(
            Welcome(
                row["revision"] if row else 0,
                record.version if record else 0,
                int(platform.clock()),
                sessions,
                self.isolations.current(),
                self.audit_log.head,
                await self.certificates.seen_by(node),
            )
        )

    def received(self, node: str, text: str) -> bool:
        """A message on a node's events socket. False: it was none that a node sends."""
        try:
            message = parse_to_fabric_untrusted(text)
        except BadMessage:
            return False
        if isinstance(message, Receipt):
            self.isolations.receipt(node, message)
        else:
            self.admission.answered(node, message)
        return True

    async def show(self, call: Call) -> Reply:
        row = await self.platform.store.first("SELECT * FROM tenants WHERE tenant = ?", self.platform.tenant)
        assert row is not None  # authenticate has seen it
        return reply(tenant_record(row))

    async def delete(self, call: Call) -> Reply:
        """Its records go, children first, and its nodes with them; the audit stays."""
        tenant = self.platform.tenant
        nodes = await self.platform.store.rows("SELECT node FROM devices WHERE tenant = ?", tenant)
        for row in nodes:
            await self.sessions.revoke(row["node"], "the tenant was deleted")
        of_vnis = "WHERE vni IN (SELECT vni FROM vnis WHERE tenant = ?)"
        await self.platform.store.write(
            [(f"DELETE FROM {table} {of_vnis}", (tenant,)) for table in _VNI_TABLES]
            + [(f"DELETE FROM {table} WHERE tenant = ?", (tenant,)) for table in _TABLES]
        )
        for table in ("enrollments", "sessions", "nonces", "isolations", "receipts", "postures", "newest_samples"):
            self.platform.local.write(f"DELETE FROM {table}")
        self.journal.record("tenant.deleted", actor=call.actor, subject=tenant, devices=len(nodes))
        return reply(None)

    async def create_admin(self, call: Call) -> Reply:
        return await administrators.create(self.platform, self.journal, call, self.platform.tenant)

    async def list_admins(self, call: Call) -> Reply:
        return await administrators.listing(self.platform, call, self.platform.tenant)

    async def revoke_admin(self, call: Call) -> Reply:
        return await administrators.revoke(self.platform, self.journal, call, self.platform.tenant)

    async def introspect(self, call: Call) -> Reply:
        return reply(self.sessions.introspect(call.decode(Introspection)))

    async def network(self, call: Call) -> Reply:
        return await network.show(self.platform, call)

    async def accept_events(self, call: Call) -> Reply:
        return await audit.accept(self.platform, call)

    async def list_events(self, call: Call) -> Reply:
        return await audit.listing(self.platform, call)

    async def woken(self) -> None:
        """By the alarm that the log has set."""
        await self.outbox.send_again()
        await self.audit_log.seal()

    async def sweep(self, call: Call) -> Reply:
        """Housekeeping, asked for by the cron: what has ended is forgotten, and what an alarm left is sent and sealed."""
        await self.woken()
        await self.retention.retire()
        now = int(self.platform.clock())
        self.sessions.forget_ended()
        await self.telemetry.sweep()
        self.platform.local.write("DELETE FROM nonces WHERE expires_at < ?", now)
        self.platform.local.write(
            "DELETE FROM enrollments WHERE status <> 'held' AND created_at < ?", now - _ENROLLMENT_KEPT_S
        )
        return reply(None)

    async def events_socket(self, call: Call) -> Reply:
        """Only reached without an upgrade: the object takes upgrades before it asks for a reply."""
        raise problem("upgrade-required", "open this as a WebSocket")


_VNI_TABLES = ("interconnects", "leases", "lease_cursors", "given_addresses", "vni_selectors", "routes")
_TABLES = (
    "telemetry_minutes",
    "telemetry_hours",
    "admins",
    "certificates",
    "gateway_ranks",
    "devices",
    "tokens",
    "policies",
    "vnis",
    "tenants",
)
_T = TenantService
_AT = "/v1/tenants/{tenant}"
_ENROLLMENTS = _AT + "/enrollments"
_INTERCONNECTS = _AT + "/interconnects"

EVENTS = Route("GET", _AT + "/events", Caller.NODE, _T.events_socket, "WebSocket of pushes", status=101)
ROUTES: tuple[Route, ...] = (
    Route("GET", _AT, Caller.VIEWER, _T.show, "One tenant", answer=Tenant),
    Route("DELETE", _AT, Caller.ROOT, _T.delete, "Delete a tenant and all its records", status=204, alone=True),
    Route("POST", _ENROLLMENTS, Caller.JOINING, lambda s, c: s.enrollments.request(c), "E1-E3: ask to join, get a challenge",
          EnrollRequest, Challenge, 201),
    Route("POST", _ENROLLMENTS + "/{enrollment}/response", Caller.ANYONE, lambda s, c: s.enrollments.respond(c),
          "E4: answer the challenge", ChallengeResponse, Enrollment, alone=True),
    Route("GET", _ENROLLMENTS + "/{enrollment}", Caller.ANYONE, lambda s, c: s.enrollments.show(c),
          "E5, E6: what became of it", answer=Enrollment),
    Route("POST", _AT + "/certificates", Caller.NODE, lambda s, c: s.enrollments.renew(c),
          "Renew the certificate, or rotate the key", RenewRequest, Certificate, alone=True),
    Route("GET", _AT + "/certificates", Caller.VIEWER, lambda s, c: s.certificates.listing(c),
          "List certificates that have not ended", answer=Page),
    Route("POST", _AT + "/certificates/{serial}/revoke", Caller.OPERATOR, lambda s, c: s.certificates.revoke(c),
          "Have a certificate refused everywhere from now on", Reason, CertificateRecord, alone=True),
    Route("POST", _AT + "/sessions", Caller.NODE, lambda s, c: s.sessions.open(c), "T1: open or renew a session",
          SessionRequest, SessionGrant, 201),
    Route("DELETE", _AT + "/sessions/{session}", Caller.NODE, lambda s, c: s.sessions.end(c), "T7: end a session", status=204),
    Route("GET", _AT + "/network", Caller.NODE, _T.network, "The network as this node may see it", answer=Network),
    Route("GET", _AT + "/policy", Caller.NODE_OR_ADMIN, lambda s, c: s.policies.show(c), "The policy in force",
          answer=PolicyRecord),
    Route("PUT", _AT + "/policy", Caller.ADMIN, lambda s, c: s.policies.push(c), "Push a signed bundle", PolicyUpload,
          PolicyRecord, body_max=2 * BUNDLE_MAX, alone=True),
    Route("GET", _AT + "/policy/versions", Caller.VIEWER, lambda s, c: s.policies.versions(c), "All policies, newest first",
          answer=Page),
    Route("GET", _AT + "/policy/bundle", Caller.NODE_OR_ADMIN, lambda s, c: s.policies.bundle(c),
          "The bundle of ?version=N", answer=bytes),
    Route("POST", _AT + "/audit", Caller.NODE, _T.accept_events, "A node's audit events", EventBatch, Accepted, 202),
    Route("GET", _AT + "/audit", Caller.VIEWER, _T.list_events, "Audit events, newest first", answer=Page),
    Route("GET", _AT + "/audit/retention", Caller.VIEWER, lambda s, c: s.retention.show(c), "How long events are kept",
          answer=AuditRetention),
    Route("PUT", _AT + "/audit/retention", Caller.ADMIN, lambda s, c: s.retention.change(c), "Say how long events are kept",
          AuditRetention, AuditRetention, alone=True),
    Route("GET", _AT + "/audit/head", Caller.NODE_OR_ADMIN, lambda s, c: s.audit_log.show_head(c), "The newest signed head",
          answer=SignedHead),
    Route("GET", _AT + "/audit/proof", Caller.VIEWER, lambda s, c: s.audit_log.show_proof(c),
          "?event=ID: that the event is in the log", answer=EventProof),
    Route("GET", _AT + "/audit/consistency", Caller.NODE_OR_ADMIN, lambda s, c: s.audit_log.show_consistency(c),
          "?first=N&second=M: that the log only grew", answer=Consistency),
    Route("GET", _AT + "/audit/segments/{first}", Caller.VIEWER, lambda s, c: s.audit_log.show_segment(c),
          "The sealed segment that begins at a position", answer=SealedSegment),
    EVENTS,
    Route("POST", _AT + "/vnis", Caller.OPERATOR, lambda s, c: s.vnis.create(c), "Create a VNI", VniCreate, VniRecord, 201, alone=True),
    Route("GET", _AT + "/vnis", Caller.VIEWER, lambda s, c: s.vnis.listing(c), "List VNIs", answer=Page),
    Route("GET", _AT + "/vnis/{name}", Caller.VIEWER, lambda s, c: s.vnis.show(c), "One VNI", answer=VniRecord),
    Route("PUT", _AT + "/vnis/{name}", Caller.OPERATOR, lambda s, c: s.vnis.change(c), "Change a VNI", VniCreate, VniRecord,
          alone=True),
    Route("DELETE", _AT + "/vnis/{name}", Caller.OPERATOR, lambda s, c: s.vnis.delete(c), "Delete a VNI", status=204, alone=True),
    Route("GET", _AT + "/vnis/{name}/members", Caller.VIEWER, lambda s, c: s.vnis.list_members(c), "List a VNI's members",
          answer=Page),
    Route("PUT", _AT + "/vnis/{name}/members/{node}", Caller.OPERATOR, lambda s, c: s.vnis.put_member(c),
          "Make a node a member, with these addresses", MemberWanted, MemberRecord, alone=True),
    Route("DELETE", _AT + "/vnis/{name}/members/{node}", Caller.OPERATOR, lambda s, c: s.vnis.remove_member(c),
          "Take a node out of a VNI", status=204, alone=True),
    Route("POST", _INTERCONNECTS, Caller.ADMIN, lambda s, c: s.interconnects.create(c), "Join two VNIs", InterconnectCreate,
          InterconnectRecord, 201, alone=True),
    Route("GET", _INTERCONNECTS, Caller.VIEWER, lambda s, c: s.interconnects.listing(c), "List interconnects", answer=Page),
    Route("GET", _INTERCONNECTS + "/{a}/{b}", Caller.VIEWER, lambda s, c: s.interconnects.show(c), "One interconnect",
          answer=InterconnectRecord),
    Route("DELETE", _INTERCONNECTS + "/{a}/{b}", Caller.ADMIN, lambda s, c: s.interconnects.delete(c),
          "Part two VNIs", status=204, alone=True),
    Route("PUT", _AT + "/advertisement", Caller.NODE, lambda s, c: s.routes.advertise(c), "The networks an endpoint offers to lead to",
          Advertisement, status=204, alone=True),
    Route("GET", _AT + "/routes", Caller.VIEWER, lambda s, c: s.routes.listing(c), "List routes through endpoints", answer=Page),
    Route("PUT", _AT + "/vnis/{name}/routes", Caller.ADMIN, lambda s, c: s.routes.decide(c),
          "Approve a route through an endpoint, or withdraw it", RouteApproval, RouteRecord, alone=True),
    Route("POST", _AT + "/admins", Caller.ADMIN, _T.create_admin, "Make a credential for this tenant", AdminCreate, AdminRecord,
          201, alone=True),
    Route("GET", _AT + "/admins", Caller.ADMIN, _T.list_admins, "List this tenant's credentials", answer=Page),
    Route("DELETE", _AT + "/admins/{admin}", Caller.ADMIN, _T.revoke_admin, "Revoke a credential of this tenant", status=204,
          alone=True),
    Route("POST", _AT + "/tokens", Caller.OPERATOR, lambda s, c: s.registry.create_token(c), "Create a join token",
          TokenCreate, TokenRecord, 201, alone=True),
    Route("GET", _AT + "/tokens", Caller.VIEWER, lambda s, c: s.registry.list_tokens(c), "List join tokens", answer=Page),
    Route("GET", _AT + "/tokens/{token}", Caller.VIEWER, lambda s, c: s.registry.show_token(c), "One join token",
          answer=TokenRecord),
    Route("DELETE", _AT + "/tokens/{token}", Caller.OPERATOR, lambda s, c: s.registry.delete_token(c), "Delete a join token",
          status=204, alone=True),
    Route("GET", _AT + "/devices", Caller.VIEWER, lambda s, c: s.registry.list_devices(c), "List devices", answer=Page),
    Route("GET", _AT + "/devices/{node}", Caller.VIEWER, lambda s, c: s.registry.show_device(c), "One device", answer=Device),
    Route("DELETE", _AT + "/devices/{node}", Caller.OPERATOR, lambda s, c: s.registry.revoke(c), "Revoke a device", status=204, alone=True),
    Route("POST", _AT + "/devices/{node}/approve", Caller.OPERATOR, lambda s, c: s.registry.approve(c), "Let a held device in",
          answer=Device, alone=True),
    Route("POST", _AT + "/devices/{node}/deny", Caller.OPERATOR, lambda s, c: s.registry.deny(c), "Turn a held device away",
          Reason, Device, alone=True),
    Route("GET", _AT + "/gateways", Caller.VIEWER, lambda s, c: s.gateways.listing(c), "List gateways with their ranks",
          answer=Page),
    Route("PUT", _AT + "/gateways/{node}", Caller.OPERATOR, lambda s, c: s.gateways.rank(c),
          "Prefer a gateway, or weigh it", GatewayRank, GatewayRecord, alone=True),
    Route("POST", _AT + "/posture", Caller.NODE, lambda s, c: s.postures.report(c), "What a device says of itself",
          PostureReport, status=204),
    Route("POST", _AT + "/telemetry", Caller.NODE, lambda s, c: s.telemetry.take(c), "How a node is doing",
          Sample, status=204),
    Route("GET", _AT + "/telemetry", Caller.VIEWER, lambda s, c: s.telemetry.show(c),
          "How the nodes are doing: the newest of each", answer=Page),
    Route("GET", _AT + "/telemetry/history", Caller.VIEWER, lambda s, c: s.telemetry.history(c),
          "How the nodes were doing, by minute for a day or by hour for a month", answer=Page),
    Route("POST", _AT + "/isolations", Caller.NODE, lambda s, c: s.isolations.report(c),
          "A gateway's word that policy isolates an endpoint", IsolationReport, status=204),
    Route("GET", _AT + "/devices/{node}/posture", Caller.VIEWER, lambda s, c: s.postures.show(c),
          "A device's newest posture report, as policy sees it", answer=PostureRecord),
    Route("POST", _AT + "/devices/{node}/isolate", Caller.OPERATOR, lambda s, c: s.isolations.isolate(c),
          "Cut a device off everywhere, until it is released", Reason, IsolationRecord),
    Route("POST", _AT + "/devices/{node}/release", Caller.OPERATOR, lambda s, c: s.isolations.release(c),
          "End a device's isolation", Reason, IsolationRecord),
    Route("GET", _AT + "/devices/{node}/isolation", Caller.VIEWER, lambda s, c: s.isolations.show(c),
          "A device's isolation, with the receipts of those who enforced it", answer=IsolationRecord),
    Route("POST", "/internal/introspect/{tenant}", Caller.INTERNAL, _T.introspect, "T2: whose session token is this?",
          Introspection, Introspected),
    Route("POST", "/internal/audit/{tenant}", Caller.INTERNAL, lambda s, c: s.audit_log.append_batch(c),
          "Events out of the queue, for the log", EventBatch, Appended, body_max=BUNDLE_MAX),
    Route("POST", "/internal/sweep/{tenant}", Caller.INTERNAL, _T.sweep, "Forget what has ended", status=204),
)  # fmt: skip
