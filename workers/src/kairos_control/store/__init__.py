"""The stores: all SQL of the control plane, one place for each question.

A store has methods in the terms of the product and takes and returns values of `kairos/api` or dataclasses of its own;
a row never leaves it. Writes that must happen together are built as statements by the stores they belong to and written
in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from ..ports import Database, LocalDatabase, Statement
from .admins import AdminStore
from .audit_index import AuditIndexStore
from .audit_log import AuditLogStore
from .audit_retention import AuditRetentionStore
from .certificates import CertificateStore
from .dead_letters import DeadLetterStore
from .devices import DeviceStore
from .enrollments import EnrollmentStore
from .fabric_events import FabricEventStore
from .gateways import GatewayStore
from .interconnects import InterconnectStore
from .isolations import IsolationStore
from .leases import LeaseStore
from .metrics import MetricsStore
from .network_changes import NetworkChangeStore
from .nonces import NonceStore
from .policies import PolicyStore
from .postures import PostureStore
from .sessions import SessionStore
from .subnet_routes import SubnetRouteStore
from .telemetry import TelemetryStore
from .tenants import TenantStore
from .tokens import TokenStore
from .vnis import VniStore


@runtime_checkable
class TenantRecords(Protocol):
    """A store of records in D1 that go with their tenant."""

    def remove_all(self) -> list[Statement]:
        """The statements that delete the tenant's records, children first."""
        ...


@runtime_checkable
class TenantState(Protocol):
    """A store of what a tenant's object keeps that goes with the tenant."""

    def clear(self) -> None: ...


class FabricStores:
    """What is kept of the whole fabric."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.tenants = TenantStore(database)
        self.admins = AdminStore(database)
        self.fabric_events = FabricEventStore(database)
        self.dead_letters = DeadLetterStore(database)
        self.metrics = MetricsStore(database)

    async def write(self, statements: Sequence[Statement]) -> None:
        """All of them or none. Raises ConstraintError."""
        await self._database.write(statements)


class Stores(FabricStores):
    """What is kept of one tenant: in D1 (`database`) and in the SQLite of the tenant's object (`local`)."""

    def __init__(self, database: Database, local: LocalDatabase, tenant: str) -> None:
        super().__init__(database)
        self._tenant = tenant
        # A store comes after those whose records its own refer to: a tenant is deleted in the opposite order.
        self.devices = DeviceStore(database, tenant)
        self.tokens = TokenStore(database, tenant)
        self.certificates = CertificateStore(database, tenant)
        self.gateways = GatewayStore(database, tenant)
        self.policies = PolicyStore(database, tenant)
        self.vnis = VniStore(database, tenant)
        self.leases = LeaseStore(database, tenant)
        self.interconnects = InterconnectStore(database, tenant)
        self.subnet_routes = SubnetRouteStore(database, tenant)
        self.enrollments = EnrollmentStore(local)
        self.network_changes = NetworkChangeStore(database, tenant)
        self.nonces = NonceStore(local)
        self.isolations = IsolationStore(local)
        self.sessions = SessionStore(local)
        self.postures = PostureStore(local)
        self.audit_log = AuditLogStore(local)
        self.audit_index = AuditIndexStore(database, tenant)
        self.audit_retention = AuditRetentionStore(database, tenant)
        self.telemetry = TelemetryStore(database, local, tenant)

    async def delete_tenant(self) -> None:
        """Deletes all records of the tenant but its audit: each store its own."""
        statements = [
            each for store in self._stores() if isinstance(store, TenantRecords) for each in store.remove_all()
        ]
        own = [self.admins.remove_all_of(self._tenant), self.tenants.remove(self._tenant)]
        await self.write([*statements, *own])
        for store in self._stores():
            if isinstance(store, TenantState):
                store.clear()

    def _stores(self) -> Iterator[object]:
        return reversed(vars(self).values())
