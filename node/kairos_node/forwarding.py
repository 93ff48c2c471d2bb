"""A host that forwards: the kernel's switches and one nftables table of our own, both as they were before at the end.

The table keeps note of the switches we turned on, as empty chains: it lives exactly as long as they do, so that the start after
a kill knows what to turn off, and the start after a reboot has nothing to undo.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from kairos.errors import Refused

_SWITCHES = {
    "turned_on_ipv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "turned_on_ipv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}


class Forwarding:
    """table: its name, ours alone. A context manager: at its end the host is as it was, also after an earlier kill."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._turned_on: set[str] = set()

    async def __aenter__(self) -> Forwarding:
        left = await nft("list", "tables")
        if f"table inet {self._table}" in left.splitlines():
            shown = await nft("list", "table", "inet", self._table)
            self._turned_on = {name for name in _SWITCHES if f"chain {name} " in shown}
            await self.stop()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def is_ours(self) -> bool:
        """This host forwards nothing but what we make it forward."""
        return "turned_on_ipv4" in self._turned_on

    async def apply(self, chains: str) -> None:
        """The whole table, replaced in one transaction; then the switches. Raises Refused."""
        self._turned_on |= {name for name, switch in _SWITCHES.items() if _read(switch) == "0"}
        notes = "".join(f"chain {name} {{ }}\n" for name in sorted(self._turned_on))
        await nft("-f", "-", script=f"{self._gone()} table inet {self._table} {{ {notes} {chains} }}")
        for name in self._turned_on:
            _SWITCHES[name].write_text("1")

    async def stop(self) -> None:
        for name in self._turned_on:
            _SWITCHES[name].write_text("0")
        self._turned_on = set()
        await nft("-f", "-", script=self._gone())

    def _gone(self) -> str:
        return f"add table inet {self._table}\ndelete table inet {self._table}\n"


async def nft(*arguments: str, script: str = "", namespace: str = "") -> str:
    """What nft prints, run in a network namespace or here. Raises Refused."""
    inside = ("nsenter", f"--net=/run/netns/{namespace}") if namespace else ()
    try:
        process = await asyncio.create_subprocess_exec(
            *inside, "nft", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        raise Refused("nft-failed", "nft is missing; install the package nftables") from None
    out, said = await process.communicate(script.encode())
    if process.returncode:
        raise Refused("nft-failed", f"nft: {said.decode(errors='replace').strip()}; run as root, or with CAP_NET_ADMIN")
    return out.decode(errors="replace")


def _read(switch: Path) -> str:
    return switch.read_text().strip() if switch.exists() else ""
