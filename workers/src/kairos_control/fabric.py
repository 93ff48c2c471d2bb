"""Constructs the services that belong to no tenant. They run in the Worker's entrypoint."""

from __future__ import annotations

from .ports import Platform
from .services.administrators import Administrators
from .services.dead_letters import DeadLetters
from .services.fabric_refusals import FabricRefusals
from .services.housekeeping import Housekeeping
from .services.journal import FabricEvents, Journal
from .services.metrics import Metrics
from .services.rate_limits import Limits
from .services.tenants import Tenants
from .store import FabricStores
from .store.fabric_events import EVERY_TENANT


class FabricServices:
    """The services of the fabric's own routes and of its cron."""

    def __init__(self, platform: Platform, limits: Limits) -> None:
        """limits: those of this isolate, shared by all its requests."""
        self.limits = limits
        self.platform = platform
        self.store = FabricStores(platform.databases)
        self.journal = Journal(platform, EVERY_TENANT, FabricEvents(self.store, EVERY_TENANT))
        self.refusals = FabricRefusals(platform, self.store)
        self.tenants = Tenants(platform, self.store)
        self.administrators = Administrators(platform, self.store, self.journal)
        self.metrics = Metrics(platform, self.store)
        self.dead_letters = DeadLetters(platform, self.store.dead_letters)
        self.housekeeping = Housekeeping(platform, self.store)
