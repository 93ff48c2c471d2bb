"""The services of one tenant, put together. They run inside the tenant's Durable Object."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from .ports import TenantPlatform
from .services.administrators import Administrators
from .services.admission import Admission
from .services.audit_log import AuditLog
from .services.certificates import Certificates
from .services.clocks import Clocks
from .services.enrollments import Enrollments
from .services.gateways import Gateways
from .services.interconnects import Interconnects
from .services.isolations import Isolations
from .services.journal import Journal
from .services.leases import Leases
from .services.lifecycle import Lifecycle
from .services.members import Members
from .services.network import Networks
from .services.network_changes import NetworkChanges
from .services.node_events import NodeEvents
from .services.outbox import Outbox
from .services.policies import Policies
from .services.postures import Postures
from .services.pushes import Pushes
from .services.rate_limits import Limits
from .services.refusals import Refusals
from .services.registry import Registry
from .services.retention import Retention
from .services.sessions import Sessions
from .services.signed_requests import SignedRequests
from .services.subnet_routes import SubnetRoutes
from .services.telemetry import Telemetry
from .services.vnis import Vnis
from .store import Stores


class TenantServices:
    """All that a tenant's object does, over its platform."""

    def __init__(self, platform: TenantPlatform) -> None:
        self.turn = (
            asyncio.Lock()
        )  # calls that change records run one at a time: D1 is awaited between reading and writing
        self.store = Stores(platform.database, platform.local, platform.tenant)
        self.outbox = Outbox(platform.queue, platform.local, platform.clock)
        self.platform = platform = replace(platform, queue=self.outbox)
        self.journal = Journal(platform, platform.tenant)
        self.refusals = Refusals(self.journal, platform.clock)
        self.clocks = Clocks(self.journal, platform.clock)
        self.limits = Limits(platform.clock)
        self.pushes = Pushes(platform)
        self.network_changes = NetworkChanges(platform, self.store, self.pushes)
        self.signed_requests = SignedRequests(platform, self.store)
        self.administrators = Administrators(platform, self.store.admins, self.journal, platform.tenant)
        self.audit_log = AuditLog(platform, self.pushes, self.outbox)
        self.retention = Retention(platform, self.journal, self.audit_log)
        self.admission = Admission(platform)
        self.postures = Postures(platform, self.pushes)
        self.telemetry = Telemetry(platform, self.limits)
        self.sessions = Sessions(platform, self.store.leases, self.journal, self.pushes, self.postures, self.limits)
        self.certificates = Certificates(platform, self.journal, self.pushes)
        self.leases = Leases(self.store.leases)
        self.enrollments = Enrollments(
            platform,
            self.store,
            self.leases,
            self.journal,
            self.pushes,
            self.admission,
            self.limits,
            self.certificates,
            self.signed_requests,
            self.network_changes,
        )
        self.policies = Policies(platform, self.store, self.journal, self.pushes)
        self.interconnects = Interconnects(platform, self.store, self.journal, self.network_changes)
        self.vnis = Vnis(
            platform, self.store, self.journal, self.network_changes, self.sessions, self.leases, self.interconnects
        )
        self.members = Members(self.store, self.journal, self.network_changes, self.sessions, self.leases)
        self.subnet_routes = SubnetRoutes(self.store, self.journal, self.network_changes, self.interconnects)
        self.networks = Networks(platform, self.store)
        self.registry = Registry(
            platform, self.store, self.journal, self.network_changes, self.enrollments, self.sessions
        )
        self.gateways = Gateways(platform, self.journal, self.network_changes)
        self.isolations = Isolations(platform, self.journal, self.pushes, self.sessions)
        self.node_events = NodeEvents(
            platform,
            self.store,
            self.sessions,
            self.isolations,
            self.certificates,
            self.admission,
            self.audit_log,
        )
        self.lifecycle = Lifecycle(
            platform,
            self.store,
            self.journal,
            self.sessions,
            self.outbox,
            self.audit_log,
            self.retention,
            self.telemetry,
        )
