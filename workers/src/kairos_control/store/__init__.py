"""The stores: all SQL of the control plane, one place for each question.

A store has methods in the terms of the product and takes and returns values of `kairos/api` or dataclasses of its own; a row never
leaves it. Writes that must happen together are built as statements by the stores they belong to and written in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ports import Database, LocalDatabase, Statement
from .admins import AdminStore
from .certificates import CertificateStore
from .devices import DeviceStore
from .enrollments import EnrollmentStore
from .gateways import GatewayStore
from .isolations import IsolationStore
from .nonces import NonceStore
from .policies import PolicyStore
from .tenants import TenantStore
from .tokens import TokenStore


class FabricStores:
    """What is kept of the whole fabric."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.tenants = TenantStore(database)
        self.admins = AdminStore(database)

    async def write(self, statements: Sequence[Statement]) -> None:
        """All of them or none. Raises ConstraintError."""
        await self._database.write(statements)


class Stores(FabricStores):
    """What is kept of one tenant: in D1 (`database`) and in the SQLite of the tenant's object (`local`)."""

    def __init__(self, database: Database, local: LocalDatabase, tenant: str) -> None:
        super().__init__(database)
        self.devices = DeviceStore(database, tenant)
        self.tokens = TokenStore(database, tenant)
        self.certificates = CertificateStore(database, tenant)
        self.gateways = GatewayStore(database, tenant)
        self.policies = PolicyStore(database, tenant)
        self.enrollments = EnrollmentStore(local)
        self.nonces = NonceStore(local)
        self.isolations = IsolationStore(local)
