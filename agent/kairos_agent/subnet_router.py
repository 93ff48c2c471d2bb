"""A subnet router: this host leads a VNI to networks that its owner offers and the operator has approved.

gateway -- tunnel -- TUN of the VNI -- [forward: only approved sources in, no TUN to another] -- [masquerade] -- LAN
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from ipaddress import ip_network

from kairos.api.problem import ProblemError
from kairos.errors import Refused
from kairos_dataplane.engine import Network
from kairos_node.backoff import Backoff
from kairos_node.fabric import FabricClient
from kairos_node.forwarding import Forwarding

_log = logging.getLogger(__name__)
TABLE = "kairos_agent"
Lans = Mapping[str, Collection[Network]]  # by TUN: what of the world behind us may speak in that VNI


class SubnetRouter:
    """offered: prefixes by name of the VNI, as the configuration has them; without any, nothing on this host changes.
    Raises Refused for what is no network."""

    def __init__(
        self, client: FabricClient, forwarding: Forwarding, offered: Mapping[str, Collection[str]], masquerade: bool
    ) -> None:
        self._client = client
        self._forwarding = forwarding
        try:
            self._offered = {vni: frozenset(map(ip_network, prefixes)) for vni, prefixes in offered.items()}
        except ValueError as error:
            raise Refused("bad-config", f"advertise: {error}; write networks, as in 192.168.70.0/24") from None
        self._masquerade = masquerade
        self._applied: Lans = {}
        self._news = asyncio.Event()

    def allowed(self, vni: str, approved: Collection[Network]) -> set[Network]:
        """What the fabric lets us lead to, as far as this host's owner offers it: the fabric alone opens nothing here."""
        return {prefix for prefix in approved if prefix in self._offered.get(vni, ())}

    def changed(self, routed: bool) -> None:
        """The network is another one: what we offer may be refused no more. routed: something leads through us."""
        if self._offered or routed:
            self._news.set()

    async def advertise(self) -> None:
        """Tells the fabric what we offer, as often as the network changes until it was taken."""
        backoff = Backoff()
        wanted = {vni: sorted(map(str, prefixes)) for vni, prefixes in self._offered.items()}
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._client.advertise(wanted)
                backoff = Backoff()
            except ConnectionError:
                self._news.set()
                await asyncio.sleep(backoff.next())
            except ProblemError as error:
                _log.warning("the fabric takes no advertisement of ours: %s", error)

    async def lead(self, lans: Lans) -> None:
        """The kernel forwards between each TUN and what is approved behind us, and nothing else of ours."""
        lans = {interface: frozenset(prefixes) for interface, prefixes in lans.items() if prefixes}
        if lans == self._applied:
            return
        try:
            await (self._forwarding.apply(self._rules(lans)) if lans else self._forwarding.stop())
            self._applied = lans
        except (Refused, OSError) as error:
            _log.error("this host leads nowhere: %s", error)

    def _rules(self, lans: Lans) -> str:
        sources = "\n".join(_only_from(interface, prefixes) for interface, prefixes in sorted(lans.items()))
        masquerade = 'iifname "kairos*" oifname != "kairos*" masquerade' if self._masquerade else ""
        return f"""
            chain forward {{
                type filter hook forward priority filter; policy accept;
                iifname "kairos*" oifname "kairos*" reject with icmpx admin-prohibited
                {sources}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                {masquerade}
            }}
        """


def _only_from(tun: str, networks: Collection[Network]) -> str:
    """Rules of a forward chain: into this TUN nobody else speaks, and so nobody with an address of the VNI, which is a member's."""
    return "\n".join(
        f'oifname "{tun}" meta nfproto ipv{version} '
        + (f"{header} saddr != {{ {', '.join(found)} }} drop" if found else "drop")
        for version, header in ((4, "ip"), (6, "ip6"))
        for found in [sorted(str(each) for each in networks if each.version == version)]
    )
