"""A VNI in a namespace of its own, and its one way out of it, as gateway.toml has it (`[[uplink]]`).

nat     endpoints -- tunnel -- TUN [namespace] -- veth -- the host's networks      outsiders see the host, begin nothing
routed  endpoints -- tunnel -- TUN [namespace] -- interface or VLAN -- clients     both may begin, policy decides
none    endpoints -- tunnel -- TUN [namespace]                                     no way out
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kairos.api.bounds import TEXT_MAX
from kairos.api.telemetry import UplinkReport
from kairos.errors import Refused
from kairos_dataplane.engine import Network
from kairos_gateway.config import Config, UplinkConfig
from kairos_node.forwarding import nft
from kairos_node.namespace import Namespace

_log = logging.getLogger(__name__)
VETH = "kru"  # the host's ends, by number of the VNI
_INSIDE, _VLAN = "kairosg-up", "kairosg-vlan"
_TRANSIT4 = IPv4Network("198.18.0.0/15")  # between a namespace and its host, seen by nobody else (RFC 2544)
_TRANSIT6 = IPv6Network("fd6b:6169:726f:7300::/112")
_SWITCHES = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))
_NO_DAD = 0x002
_STATE_MAX = 80
_LINK_SCOPE = 253  # no address of the host that anyone should be told


@dataclass(slots=True)
class _Way:
    """interface: inside; sources: what may come in through it; slot: of the transit addresses."""

    interface: str
    tun: str
    slot: int
    sources: frozenset[Network]


class Externals:
    """The ways out of this gateway's isolated VNIs, as gateway.toml has them. Raises Refused for nonsense."""

    def __init__(self, host: AsyncIPRoute, config: Config) -> None:
        self._host = host
        self._config = config
        self._configured = {uplink.vni: uplink for uplink in config.uplink}
        self._ways: dict[int, _Way] = {}
        self._states: dict[str, str] = {}
        if len(self._configured) < len(config.uplink):
            raise Refused("bad-config", "uplink: one VNI has one uplink")
        for uplink in config.uplink:
            _check(uplink)

    def isolates(self, name: str) -> bool:
        return name in self._configured

    async def connect(self, vni: int, name: str, namespace: Namespace, tun: str, sources: Collection[Network]) -> None:
        """Makes the way out, once, and lets in through it what speaks from `sources`. Raises Refused."""
        uplink, wanted = self._configured.get(name) or self._usual(name), frozenset(sources)
        try:
            if vni not in self._ways:
                self._ways[vni] = await self._make(vni, uplink, namespace, tun)
            way = self._ways[vni]
            if not way.sources or way.sources != wanted:
                await nft("-f", "-", script=_rules(uplink, way, wanted), namespace=namespace.name)
                way.sources = wanted
            self._states[name] = "up"
        except (NetlinkError, OSError) as error:
            self._states[name] = str(error.args[-1] if error.args else error)[:TEXT_MAX]
            raise Refused("uplink-failed", f"uplink of {name}: {self._states[name]}") from None

    def report(self) -> list[UplinkReport]:
        """What became of each `[[uplink]]`."""
        return [
            UplinkReport(
                name,
                uplink.mode,
                f"{uplink.interface}.{uplink.vlan}" if uplink.vlan else uplink.interface,
                self._states.get(name, "this gateway has no such VNI")[:_STATE_MAX],
            )
            for name, uplink in self._configured.items()
        ]

    def _usual(self, name: str) -> UplinkConfig:
        """The way out of a VNI that is isolated for another reason: as if it shared the host's routing. It cannot be routed as it
        is, for the host's own routes to its prefix lead elsewhere."""
        return UplinkConfig(name, "nat" if self._config.masquerade and name not in self._config.routed else "none")

    def forget(self, vni: int, name: str) -> None:
        """It went with its namespace."""
        self._ways.pop(vni, None)
        self._states.pop(name, None)

    async def _make(self, vni: int, uplink: UplinkConfig, namespace: Namespace, tun: str) -> _Way:
        if uplink.mode == "none" and not self.isolates(uplink.vni):
            _log.warning("VNI %s has no way out: it is isolated, so it needs an uplink or masquerade", uplink.vni)
        slot = min(set(range(len(self._ways) + 1)) - {way.slot for way in self._ways.values()})
        way = _Way("", tun, slot, frozenset())
        await nft("-f", "-", script=_rules(uplink, way, ()), namespace=namespace.name)  # closed before anything is open
        namespace.call(_forward)
        if uplink.mode == "nat":
            way.interface = await self._veth(vni, slot, namespace)
        elif uplink.mode == "routed":
            way.interface = await self._wire(uplink, namespace)
        return way

    async def _veth(self, vni: int, slot: int, namespace: Namespace) -> str:
        """To the host, which masquerades; inside, transit addresses and a default route."""
        outside = f"{VETH}{vni}"
        for left in await self._host.link_lookup(ifname=outside):  # of an attempt that failed halfway
            await self._host.link("del", index=left)
        peer = {"ifname": _INSIDE, "net_ns_fd": namespace.name}
        await self._host.link("add", ifname=outside, kind="veth", peer=peer)
        (here,) = await self._host.link_lookup(ifname=outside)
        (there,) = await namespace.netlink.link_lookup(ifname=_INSIDE)
        for network, length in ((_TRANSIT4, 31), (_TRANSIT6, 127)):
            first, second = network[2 * slot], network[2 * slot + 1]
            await self._host.addr(
                "add", index=here, address=str(first), prefixlen=length, scope=_LINK_SCOPE, flags=_NO_DAD
            )
            await namespace.netlink.addr("add", index=there, address=str(second), prefixlen=length, flags=_NO_DAD)
        await self._host.link("set", index=here, state="up")
        await namespace.netlink.link("set", index=there, state="up")
        for network, default in ((_TRANSIT4, "0.0.0.0/0"), (_TRANSIT6, "::/0")):
            await namespace.netlink.route("add", dst=default, gateway=str(network[2 * slot]), oif=there)
        return _INSIDE

    async def _wire(self, uplink: UplinkConfig, namespace: Namespace) -> str:
        """The interface itself, or a VLAN on it, moves in."""
        if uplink.vlan:
            name = _VLAN
            parents = await self._host.link_lookup(ifname=uplink.interface)
            if not parents:
                raise OSError(19, f"there is no interface {uplink.interface}")
            await self._host.link(
                "add", ifname=name, kind="vlan", link=parents[0], vlan_id=uplink.vlan, net_ns_fd=namespace.name
            )
            (index,) = await namespace.netlink.link_lookup(ifname=name)
        else:
            name = uplink.interface
            index = await namespace.take_in(self._host, name)
        for text in uplink.addresses:
            address = ip_interface(text)
            await namespace.netlink.addr(
                "replace", index=index, address=str(address.ip), prefixlen=address.network.prefixlen,
                flags=_NO_DAD if address.version == 6 else 0,
            )  # fmt: skip
        await namespace.netlink.link("set", index=index, state="up")
        return name


def _forward() -> None:
    for switch in _SWITCHES:
        switch.write_text("1")


def _check(uplink: UplinkConfig) -> None:
    try:
        for text in uplink.addresses:
            ip_interface(text)
    except ValueError as error:
        raise Refused("bad-config", f"uplink of {uplink.vni}: {error}") from None
    if (uplink.mode == "routed") != bool(uplink.interface):
        raise Refused("bad-config", f"uplink of {uplink.vni}: `routed` takes an interface, and nothing else does")
    if uplink.mode != "routed" and (uplink.vlan or uplink.addresses):
        raise Refused("bad-config", f"uplink of {uplink.vni}: `vlan` and `addresses` go with `routed`")


def _rules(uplink: UplinkConfig, way: _Way, sources: Collection[Network]) -> str:
    """Nothing is forwarded but between the TUN and the way out; into the TUN nobody speaks with an address of the VNI, which is
    a member's."""
    out = f'iifname "{way.tun}" oifname "{way.interface}" accept' if way.interface else ""
    back = ""
    if uplink.mode == "nat" and way.interface:
        back = f'iifname "{way.interface}" oifname "{way.tun}" ct state established,related accept'
    elif way.interface:
        back = "\n".join(
            f'iifname "{way.interface}" oifname "{way.tun}" {header} saddr {{ {", ".join(found)} }} accept'
            for version, header in ((4, "ip"), (6, "ip6"))
            if (found := sorted(str(each) for each in sources if each.version == version))
        )
    masquerade = f'oifname "{way.interface}" masquerade' if uplink.mode == "nat" and way.interface else ""
    return f"""
        flush ruleset
        table inet kairos_gateway {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                {out}
                {back}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                {masquerade}
            }}
        }}
    """
