"""The way out of the VNIs that share the host's routing: forwarding in the kernel, kept apart by one nftables table of our own.

endpoint -- tunnel -- TUN of its VNI -- [forward: no TUN to another TUN] -- [masquerade] -- the host's networks

A host that forwarded nothing before forwards this and nothing else (kairos_node.forwarding).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kairos_dataplane.engine import Network
from kairos_gateway.external import VETH
from kairos_node.forwarding import Forwarding

_TABLE = "kairos_gateway"


class Uplink:
    """prefix: of the TUNs' names. A context manager: at its end the host is as it was."""

    def __init__(self, prefix: str) -> None:
        self._ours = (f"{prefix}*", f"{VETH}*")
        self._forwarding = Forwarding(_TABLE)

    async def __aenter__(self) -> Uplink:
        await self._forwarding.__aenter__()
        await self.apply({}, ())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._forwarding.stop()

    async def apply(self, sources: Mapping[str, Collection[Network]], masqueraded: Collection[str]) -> None:
        """sources: what of the host's networks may speak in a VNI, by TUN; masqueraded: TUNs of which all that leaves carries the
        host's own address, the others are routed as they are."""
        await self._forwarding.apply(self._rules(sources, masqueraded))

    def _rules(self, sources: Mapping[str, Collection[Network]], masqueraded: Collection[str]) -> str:
        tuns, veths = self._ours
        apart = "\n".join(
            f'iifname "{one}" oifname "{other}" reject with icmpx admin-prohibited'
            for one in self._ours
            for other in self._ours
        )
        entered = {tun: networks for tun, networks in sorted(sources.items()) if networks}
        jumps = ", ".join(f'"{tun}" : jump into_{tun}' for tun in entered)
        names = ", ".join(f'"{tun}"' for tun in sorted(masqueraded))
        return f"""
            {"".join(_entrance(tun, networks) for tun, networks in entered.items())}
            chain forward {{
                type filter hook forward priority filter; policy accept;
                {apart}
                {f"oifname vmap {{ {jumps} }}" if jumps else ""}
                oifname "{tuns}" drop
                oifname "{veths}" ct state != {{ established, related }} drop
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                {f'iifname {{ {names} }} oifname != "{tuns}" masquerade' if names else ""}
                iifname "{veths}" masquerade
            }}
        """


def _entrance(tun: str, networks: Collection[Network]) -> str:
    """Into this TUN nobody else speaks, and so nobody with an address of the VNI, which is a member's. A chain each: what a packet
    costs does not grow with the number of VNIs."""
    allowed = "\n".join(
        f"{header} saddr {{ {', '.join(found)} }} accept"
        for version, header in ((4, "ip"), (6, "ip6"))
        if (found := sorted(str(each) for each in networks if each.version == version))
    )
    return f"chain into_{tun} {{\n{allowed}\n}}\n"
