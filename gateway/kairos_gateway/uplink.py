"""The way out of the VNIs: forwarding in the kernel, kept apart by one nftables table of our own.

endpoint -- tunnel -- TUN of its VNI -- [forward: no TUN to another TUN] -- [masquerade] -- the host's networks
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from kairos.errors import Refused

_TABLE = "kairos_gateway"
_FORWARDING = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))


class Uplink:
    """prefix: of the TUNs' names. A context manager: at its end the host is as it was."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._turned_on: list[Path] = []

    async def __aenter__(self) -> Uplink:
        await self.masquerade(())
        for switch in _FORWARDING:
            if _read(switch) == "0":
                switch.write_text("1")
                self._turned_on.append(switch)
        return self

    async def __aexit__(self, *_: object) -> None:
        for switch in self._turned_on:
            switch.write_text("0")
        await _nft(f"add table inet {_TABLE}; delete table inet {_TABLE}")

    async def masquerade(self, interfaces: Collection[str]) -> None:
        """What comes out of these TUNs leaves under the host's own address; the others are routed as they are."""
        await _nft(_rules(self._prefix, interfaces))


def _rules(prefix: str, interfaces: Collection[str]) -> str:
    """The whole table, replaced in one transaction. VNIs never meet in the kernel."""
    source = f'iifname {{ {", ".join(sorted(interfaces))} }} oifname != "{prefix}*" masquerade' if interfaces else ""
    return f"""
        add table inet {_TABLE}
        delete table inet {_TABLE}
        table inet {_TABLE} {{
            chain forward {{
                type filter hook forward priority filter; policy accept;
                iifname "{prefix}*" oifname "{prefix}*" reject with icmpx admin-prohibited
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat; policy accept;
                {source}
            }}
        }}
    """


async def _nft(script: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "nft", "-f", "-", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        raise Refused("nft-failed", "nft is missing; install the package nftables") from None
    _, said = await process.communicate(script.encode())
    if process.returncode:
        raise Refused("nft-failed", f"nft: {said.decode(errors='replace').strip()}; run as root, or with CAP_NET_ADMIN")


def _read(switch: Path) -> str:
    return switch.read_text().strip() if switch.exists() else ""
