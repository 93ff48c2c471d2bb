"""Constructs the services of one tenant. They run inside the tenant's Durable Object."""

from __future__ import annotations

from .ports import TenantPlatform
from .services.administrators import Administrators
from .services.admission import Admission
from .services.audit_intake import AuditIntake
from .services.audit_log import AuditLog
from .services.audit_search import AuditSearch
from .services.certificates import Certificates
from .services.clocks import Clocks
from .services.devices import Devices
from .services.enrollments import Enrollments
from .services.event_sockets import EventSockets
from .services.fabric_inbox import FabricInbox
from .services.gateways import Gateways
from .services.index_upkeep import IndexUpkeep
from .services.interconnects import Interconnects
from .services.isolations import Isolations
from .services.journal import DirectoryChanges, Journal
from .services.leases import Leases
from .services.lifecycle import Lifecycle
from .services.members import Members
from .services.network import Networks
from .services.network_changes import NetworkChanges
from .services.node_events import NodeEvents
from .services.policies import Policies
from .services.postures import Postures
from .services.pushes import Pushes
from .services.rate_limits import Limits
from .services.refusals import Refusals
from .services.relocation import Relocation
from .services.retention import Retention
from .services.segment_files import SegmentFiles
from .services.sessions import Sessions
from .services.signed_requests import SignedRequests
from .services.subnet_routes import SubnetRoutes
from .services.telemetry import Telemetry
from .services.tokens import Tokens
from .services.turn import Turn
from .services.vnis import Vnis
from .store import Stores


class TenantServices:
    """The services of one tenant, each after those that it uses."""

    def __init__(self, platform: TenantPlatform) -> None:
        self.turn = Turn()
        self.store = Stores(platform.databases, platform.local, platform.tenant)
        self.platform = platform
        self.event_sockets = EventSockets(platform, self.store.event_shards)
        self.pushes = Pushes(platform, self.event_sockets)
        self.segment_files = SegmentFiles(platform.blobs, platform.tenant)
        self.audit_log = AuditLog(platform, self.store, self.segment_files, self.pushes)
        self.journal = Journal(platform, platform.tenant, self.audit_log)
        self.refusals = Refusals(self.journal, platform.clock)
        self.clocks = Clocks(self.journal, platform.clock)
        self.limits = Limits(platform.clock)
        self.network_changes = NetworkChanges(platform, self.store, self.pushes)
        self.signed_requests = SignedRequests(platform, self.store)
        self.directory_journal = Journal(platform, platform.tenant, DirectoryChanges(self.audit_log))
        self.administrators = Administrators(platform, self.store, self.directory_journal, platform.tenant)
        self.audit_intake = AuditIntake(platform.tenant, self.audit_log, self.limits)
        self.audit_search = AuditSearch(self.store, self.segment_files, self.audit_log)
        self.index_upkeep = IndexUpkeep(platform, self.store, self.segment_files, self.journal)
        self.retention = Retention(platform, self.store, self.journal, self.segment_files)
        self.fabric_inbox = FabricInbox(platform, self.store, self.audit_log)
        self.admission = Admission(platform, self.store)
        self.postures = Postures(platform, self.store, self.pushes, self.limits)
        self.telemetry = Telemetry(platform, self.store, self.limits)
        self.sessions = Sessions(
            platform, self.store, self.journal, self.pushes, self.event_sockets, self.postures, self.limits
        )
        self.certificates = Certificates(
            platform, self.store, self.journal, self.pushes, self.network_changes, self.limits
        )
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
            self.turn,
            self.network_changes,
        )
        self.tokens = Tokens(platform, self.store, self.journal)
        self.policies = Policies(platform, self.store, self.journal, self.pushes)
        self.interconnects = Interconnects(platform, self.store, self.journal, self.network_changes)
        self.vnis = Vnis(
            platform, self.store, self.journal, self.network_changes, self.sessions, self.leases, self.interconnects
        )
        self.members = Members(self.store, self.journal, self.network_changes, self.sessions, self.leases)
        self.subnet_routes = SubnetRoutes(
            self.store, self.journal, self.network_changes, self.interconnects, self.limits
        )
        self.networks = Networks(platform, self.store, self.limits)
        self.devices = Devices(
            platform,
            self.store,
            self.journal,
            self.network_changes,
            self.enrollments,
            self.sessions,
            self.event_sockets,
        )
        self.gateways = Gateways(platform, self.store, self.journal, self.network_changes)
        self.isolations = Isolations(platform, self.store, self.journal, self.pushes, self.event_sockets, self.sessions)
        self.node_events = NodeEvents(
            platform,
            self.store,
            self.sessions,
            self.isolations,
            self.certificates,
            self.admission,
            self.audit_log,
            self.event_sockets,
            self.limits,
        )
        self.relocation = Relocation(platform, self.store, self.directory_journal, self.fabric_inbox, self.turn)
        self.lifecycle = Lifecycle(
            platform,
            self.store,
            self.journal,
            self.sessions,
            self.fabric_inbox,
            self.audit_log,
            self.index_upkeep,
            self.retention,
            self.refusals,
            self.telemetry,
            self.relocation,
            self.event_sockets,
        )
