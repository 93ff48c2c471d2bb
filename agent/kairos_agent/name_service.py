"""Names of the VNIs for this host's programs: a name server each, and the host's resolver told which suffix is whose.

systemd-resolved keeps what it is told by interface and forgets it with the interface, so a crash leaves nothing. Where there is no
such resolver nothing on the host is changed: a name server that is not asked is better than a resolv.conf that is left behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field

from kairos_agent.name_server import NameServer
from kairos_dataplane.engine import Network
from kairos_node.netlink import VniPlan
from kairos_node.network_view import Address, NetworkView
from kairos_node.vnis import Vnis
from kairos_node.zone import Zone, lies_under, zone_of

_log = logging.getLogger(__name__)
_NOBODYS = ("internal", "home.arpa")  # set aside for private use: nothing of the world is called so
_REVERSE_MAX = 16  # zones of one prefix


@dataclass(slots=True)
class _Served:
    server: NameServer | None = None
    addresses: tuple[Address, ...] = ()
    told: tuple[str, ...] = ()  # the resolver, of these domains
    state: str = ""


@dataclass
class NameService:
    """owned: suffixes beside the private ones that the host's resolver may be told of. A fabric that could name any suffix would
    answer for the world's names on this host; in a namespace of the VNI there is no other world."""

    vnis: Vnis
    owned: Collection[str]
    enabled: bool = True
    _served: dict[int, _Served] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def apply(self, view: NetworkView) -> None:
        """Serves what the VNIs on this host are called, as the network is now."""
        async with self._turn:
            taken: set[str] = set()
            for plan in sorted(self.vnis.plans, key=lambda plan: plan.vni):
                zone = zone_of(view, plan.vni)
                if not (self.enabled and zone.suffix and plan.addresses) or plan.apart:
                    self.forget(plan.vni)
                    continue
                served = self._served.setdefault(plan.vni, _Served())
                state = await self._serve(served, plan, zone) or await self._tell(served, plan, zone, taken)
                if state != served.state and state.startswith("none"):
                    _log.warning("names under %s are unknown to this host's programs: %s", zone.suffix, state[6:])
                served.state = state

    def forget(self, vni: int) -> None:
        """Before the VNI goes: a socket of ours would keep its namespace."""
        served = self._served.pop(vni, None)
        if served is not None and served.server is not None:
            served.server.close()

    def close(self) -> None:
        for vni in list(self._served):
            self.forget(vni)

    def status(self, vni: int) -> dict[str, str]:
        """dns: where this host asks for names under dns_suffix; dns_resolver: who does so for its programs."""
        served = self._served.get(vni)
        server = served.server if served is not None else None
        return {
            "dns_suffix": server.zone.suffix if server is not None else "",
            "dns": str(served.addresses[0]) if served is not None and server is not None else "",
            "dns_resolver": served.state if served is not None else "",
        }

    async def _serve(self, served: _Served, plan: VniPlan, zone: Zone) -> str:
        """What is wrong; empty when it serves."""
        addresses = tuple(address.ip for address in plan.addresses)
        if served.server is not None and served.addresses == addresses:
            served.server.zone = zone
            return ""
        if served.server is not None:
            served.server.close()
        try:
            served.server = await NameServer.start(zone, addresses, self.vnis.place(plan.vni))
        except OSError as error:
            served.server = None
            return f"none: port 53 of {addresses[0]} cannot be had: {error.strerror}"
        served.addresses, served.told = addresses, ()
        return ""

    async def _tell(self, served: _Served, plan: VniPlan, zone: Zone, taken: set[str]) -> str:
        """Who resolves for programs now, or why nobody does."""
        if plan.isolated:
            return "kairos exec"
        if not any(lies_under(zone.suffix, each) for each in (*_NOBODYS, *self.owned)):
            return f"none: {zone.suffix} is not private; name it in dns_suffixes of agent.toml if it is yours"
        if zone.suffix in taken:
            return f"none: another VNI has the suffix {zone.suffix}"
        taken.add(zone.suffix)
        domains = tuple(f"~{domain}" for domain in (zone.suffix, *reverse_zones(zone.prefixes)))
        if served.told == domains:
            return served.state
        if failed := await _resolved(self.vnis.interface(plan.vni), str(served.addresses[0]), domains):
            return f"none: {failed}; ask {served.addresses[0]}, port 53"
        served.told = domains
        return "systemd-resolved"


def reverse_zones(prefixes: Collection[Network]) -> list[str]:
    """Zones that lie wholly in these prefixes; a prefix without such a border near by has none."""
    zones: list[str] = []
    for prefix in prefixes:
        step = 8 if prefix.version == 4 else 4
        length = -(-prefix.prefixlen // step) * step
        if length == 0 or length >= prefix.max_prefixlen or 1 << (length - prefix.prefixlen) > _REVERSE_MAX:
            continue
        for part in prefix.subnets(new_prefix=length):
            zones.append(
                ".".join(part.network_address.reverse_pointer.split(".")[(prefix.max_prefixlen - length) // step :])
            )
    return sorted(zones)


async def _resolved(interface: str, server: str, domains: Collection[str]) -> str:
    """Tells systemd-resolved; what went wrong, or nothing."""
    if not _resolver_is_ours():
        return "systemd-resolved, if any, serves another network namespace"
    for arguments in (("default-route", "no"), ("dnssec", "no"), ("domain", *domains), ("dns", server)):
        try:
            process = await asyncio.create_subprocess_exec(
                "resolvectl", arguments[0], interface, *arguments[1:],
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError:
            return "this host has no systemd-resolved"
        _, said = await process.communicate()
        if process.returncode:
            return " ".join(said.decode(errors="replace").split()) or "systemd-resolved refused"
    return ""


def _resolver_is_ours() -> bool:
    """An interface's number means another one in another namespace: there we say nothing."""
    try:
        return os.stat("/proc/self/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino
    except OSError:
        return False
