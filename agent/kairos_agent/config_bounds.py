"""What of a gateway's Config this host believes: nothing that its own view of the network, which is the fabric's word, does not say.

A gateway is a peer, not an authority: one that was taken over must not draw this host's traffic to itself. The routes of a VNI
that shares the host's routing come before the host's own, so of those nothing is taken that would lead away the host's LAN, its
resolvers, or the fabric and the relays that the tunnel itself needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_interface, ip_network

from kairos.errors import Refused
from kairos.wire.control import Config, VniConfig
from kairos_dataplane.engine import Network
from kairos_node.netlink import VniPlan
from kairos_node.network_view import NetworkView

_log = logging.getLogger(__name__)
_WORLDS: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("2000::/3"))  # of IPv6 what is global unicast
_PRIVATE: tuple[Network, ...] = tuple(  # RFC 1918, RFC 6598, RFC 4193
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
_MTU_LEAST, _MTU_MOST = 576, 9000  # bytes


@dataclass(frozen=True, slots=True)
class HostNetworks:
    """What no VNI that shares the host's routing may lead away."""

    lans: frozenset[Network]
    """Networks that the host's other interfaces are on."""
    addresses: frozenset[IPv4Address | IPv6Address]
    """Of resolvers, the fabric and the relays in use."""

    def leads_away(self, route: Network) -> bool:
        return any(address in route for address in self.addresses) or any(
            lan.version == route.version and lan.overlaps(route) for lan in self.lans
        )


def believed_revision(config: Config, view: NetworkView) -> int:
    """No gateway's Config is newer than what the fabric has told us."""
    return min(config.revision, view.record.revision)


def believed_plans(
    config: Config, view: NetworkView, node: str, host: HostNetworks, isolates: Callable[[str], bool]
) -> list[VniPlan]:
    """The VNIs of `config` as far as `view` has them too, of this node. isolates: by name, whether a VNI gets a namespace of its
    own. Raises Refused for a Config that makes no sense."""
    try:
        plans = [_plan(vni, view, node, isolates) for vni in config.vnis if vni.vni in view.vnis]
    except ValueError as error:
        raise Refused("bad-config", f"the gateway's configuration makes no sense: {error}") from None
    return _beside_the_host(plans, host)


def _plan(config: VniConfig, view: NetworkView, node: str, isolates: Callable[[str], bool]) -> VniPlan:
    if not _MTU_LEAST <= config.mtu <= _MTU_MOST:
        raise ValueError(f"MTU {config.mtu}")
    addresses, routes = tuple(map(ip_interface, config.addresses)), tuple(map(ip_network, config.routes))
    name = view.vnis[config.vni].name
    own, reachable = set(map(ip_interface, view.addresses(config.vni, node))), view.reachable(config.vni, node)
    _say(name, [each for each in addresses if each not in own], "the network has no such address of this host")
    # The fabric tells interconnects to gateways alone: a route that is not in our view may be another VNI's name for its prefix.
    believed = tuple(each for each in routes if each in reachable or _may_be_seen_across(each, reachable))
    _say(name, [each for each in routes if each not in believed], "the network has no such route")
    return VniPlan(
        config.vni,
        name,
        config.mtu,
        tuple(each for each in addresses if each in own),
        believed,
        isolates(name),
    )


def _may_be_seen_across(route: Network, reachable: Collection[Network]) -> bool:
    """Prefixes of other VNIs are seen under private addresses, beside those of this VNI. They lead nobody's way to the Internet away."""
    private = any(route.version == each.version and route.subnet_of(each) for each in _PRIVATE)  # type: ignore[arg-type]
    return private and not any(route.version == each.version and route.overlaps(each) for each in reachable)


def _beside_the_host(plans: Collection[VniPlan], host: HostNetworks) -> list[VniPlan]:
    """An exit route beside the host's own routing would swallow our own tunnel; in a namespace there is nothing but the VNI."""
    routes = {route for plan in plans if not plan.isolated for route in plan.routes}
    harmful = {route for route in routes if not route.prefixlen or host.leads_away(route)}
    for world in _WORLDS:
        harmful |= _exit_in_parts({route for route in routes if route.version == world.version}, world)
    for plan in plans:
        if not plan.isolated:  # that an exit route is left out there is usual: nothing is said of it
            left_out = [route for route in plan.routes if route.prefixlen and route in harmful]
            _say(plan.name, left_out, "it would lead this host's own traffic away")
    return [
        plan if plan.isolated else replace(plan, routes=tuple(each for each in plan.routes if each not in harmful))
        for plan in plans
    ]


def _exit_in_parts(routes: Collection[Network], world: Network) -> set[Network]:
    """The widest of these routes of one IP version, as long as together they lead everything away: 0.0.0.0/1 and 128.0.0.0/1 do."""
    left, out = set(routes), set[Network]()
    while any(world.subnet_of(whole) for whole in collapse_addresses(left)):  # type: ignore[type-var,arg-type]
        width = min(route.prefixlen for route in left)
        out |= {route for route in left if route.prefixlen == width}
        left -= out
    return out


def _say(vni: str, left_out: Iterable[object], why: str) -> None:
    for each in left_out:
        _log.warning("VNI %s: %s of the gateway's Config is left out: %s", vni, each, why)
