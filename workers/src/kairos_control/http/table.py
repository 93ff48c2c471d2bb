"""All routes, in the order in which the OpenAPI document lists them."""

from __future__ import annotations

from ..fabric import FabricServices
from ..tenant import TenantServices
from .resources import (
    admins,
    audit,
    certificates,
    devices,
    enrollments,
    events,
    fabric,
    gateways,
    interconnects,
    internal,
    isolations,
    members,
    network,
    policy,
    posture,
    sessions,
    subnet_routes,
    telemetry,
    tenants,
    tokens,
    vnis,
)
from .routing import Route

FABRIC: tuple[Route[FabricServices], ...] = (*fabric.ROUTES, *tenants.FABRIC_ROUTES, *admins.FABRIC_ROUTES)
TENANT: tuple[Route[TenantServices], ...] = (
    *tenants.ROUTES,
    *enrollments.ROUTES,
    *certificates.ROUTES,
    *sessions.ROUTES,
    *network.ROUTES,
    *policy.ROUTES,
    *audit.ROUTES,
    *events.ROUTES,
    *vnis.ROUTES,
    *members.ROUTES,
    *interconnects.ROUTES,
    *subnet_routes.ROUTES,
    *admins.ROUTES,
    *tokens.ROUTES,
    *devices.ROUTES,
    *gateways.ROUTES,
    *posture.ROUTES,
    *telemetry.ROUTES,
    *isolations.ROUTES,
    *internal.ROUTES,
)
