"""The stores: all SQL of the control plane, one place for each question.

A store has methods in the terms of the product and takes and returns values of `kairos/api` or dataclasses of its own;
a row never leaves it. Writes that must happen together are built as statements by the stores they belong to and written
in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..ports import DIRECTORY, Database, Databases, LocalDatabase, Statement
from .admins import AdminStore
from .audit_index import AuditIndexStore
from .audit_log import AuditLogStore
from .audit_retention import AuditRetentionStore
from .certificates import CertificateStore
from .dead_letters import DeadLetterStore
from .devices import DeviceStore
from .enrollments import EnrollmentStore
from .event_shards import EventShardStore
from .fabric_events import FabricEventStore
from .gateways import GatewayStore
from .interconnects import InterconnectStore
from .isolations import IsolationStore
from .issuers import IssuerStore
from .leases import LeaseStore
from .metrics import MetricsStore
from .network_changes import NetworkChangeStore
from .nonces import NonceStore
from .placements import PlacementStore
from .policies import PolicyStore
from .postures import PostureStore
from .sessions import SessionStore
from .subnet_routes import SubnetRouteStore
from .tables import Table
from .telemetry import TelemetryStore
from .tenant_database import TenantDatabase, database_of
from .tenants import TenantStore
from .tokens import TokenStore
from .vnis import VniStore


@runtime_checkable
class TenantRecords(Protocol):
    """A store of records in D1 that are one tenant's."""

    TABLES: tuple[Table, ...]
    """Where they are, a table after those that it refers to."""


@runtime_checkable
class TenantState(Protocol):
    """A store of what a tenant's object keeps that goes with the tenant."""

    def clear(self) -> None: ...


class FabricStores:
    """What is kept of the whole fabric, in the directory."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self._directory = databases.directory
        self.tenants = TenantStore(self._directory)
        self.placements = PlacementStore(self._directory)
        self.admins = AdminStore(self._directory)
        self.fabric_events = FabricEventStore(self._directory)
        self.dead_letters = DeadLetterStore(self._directory)
        self.metrics = MetricsStore(self._directory)

    async def write_directory(self, statements: Sequence[Statement]) -> None:
        """All of them or none. Raises ConstraintError."""
        await self._directory.write(statements)

    def each(self) -> Mapping[str, Database]:
        """All databases, by the names of their bindings."""
        return {name: self.databases.of(name) for name in self.databases.names}

    def shard(self, name: str) -> Database:
        """One of them. Raises schema-older if the Worker lacks the binding."""
        return database_of(self.databases, name)


class Stores(FabricStores):
    """What is kept of one tenant: in the D1 database that it is placed in, in the directory, and in the SQLite of the tenant's object
    (`local`)."""

    def __init__(self, databases: Databases, local: LocalDatabase, tenant: str) -> None:
        super().__init__(databases)
        self._tenant = tenant
        self.home = TenantDatabase(databases, tenant)
        self.home_events = FabricEventStore(self.home)
        # A store comes after those whose records its own refer to: a tenant is deleted in the opposite order.
        self.devices = DeviceStore(self.home, tenant)
        self.tokens = TokenStore(self.home, tenant)
        self.certificates = CertificateStore(self.home, tenant)
        self.gateways = GatewayStore(self.home, tenant)
        self.policies = PolicyStore(self.home, tenant)
        self.vnis = VniStore(self.home, tenant)
        self.leases = LeaseStore(self.home, tenant)
        self.interconnects = InterconnectStore(self.home, tenant)
        self.subnet_routes = SubnetRouteStore(self.home, tenant)
        self.enrollments = EnrollmentStore(local)
        self.network_changes = NetworkChangeStore(self.home, tenant)
        self.nonces = NonceStore(local)
        self.isolations = IsolationStore(local)
        self.event_shards = EventShardStore(local)
        self.issuers = IssuerStore(local)
        self.sessions = SessionStore(local)
        self.postures = PostureStore(local)
        self.audit_log = AuditLogStore(local)
        self.audit_index = AuditIndexStore(self.home, tenant)
        self.audit_retention = AuditRetentionStore(self.home, tenant)
        self.telemetry = TelemetryStore(self.home, local, tenant)

    @property
    def tables(self) -> list[Table]:
        """Where the tenant's records are, a table after those that it refers to."""
        stores = vars(self).values()
        return [table for store in stores if isinstance(store, TenantRecords) for table in store.TABLES]

    async def write(self, statements: Sequence[Statement]) -> None:
        """All of them or none, in the tenant's own database. Raises ConstraintError, moving."""
        await self.home.write(statements)

    async def delete_tenant(self) -> None:
        """Deletes all records of the tenant but its audit. The row of the directory goes last: a crash leaves a tenant to delete."""
        tables = [table for table in reversed(self.tables) if not table.outlives]
        row = self.tenants.remove(self._tenant)
        records = [*(table.remove(self._tenant) for table in tables), row]
        own = [self.admins.remove_all_of(self._tenant), row]
        if (await self.home.placement()).shard == DIRECTORY:
            await self.write([*records[:-1], *own])
        else:
            await self.write(records)
            await self.write_directory(own)
        for store in self._stores():
            if isinstance(store, TenantState):
                store.clear()

    def _stores(self) -> Iterator[object]:
        return reversed(vars(self).values())
