"""The services that belong to no tenant, put together."""

from __future__ import annotations

from .ports import Platform
from .services.administrators import Administrators
from .services.housekeeping import Housekeeping
from .services.journal import EveryJournal
from .services.metrics import Metrics
from .services.rate_limits import Limits
from .services.tenants import Tenants
from .store import FabricStores


class FabricServices:
    """All that the fabric's own routes and its cron work with."""

    def __init__(self, platform: Platform, limits: Limits) -> None:
        """limits: of this isolate, over all its requests."""
        self.limits = limits
        self.platform = platform
        self.store = FabricStores(platform.database)
        self.journal = EveryJournal(platform, self.store.tenants)
        self.tenants = Tenants(platform, self.store.tenants)
        self.administrators = Administrators(platform, self.store.admins, self.journal)
        self.metrics = Metrics(platform)
        self.housekeeping = Housekeeping(platform)
