"""A host that forwards: the kernel's switches and one nftables table of our own, both as they were before at the end.

A host that forwarded nothing before forwards what is KairOS's and still nothing else: between the interfaces that it had, packets
are dropped. What comes later, as the bridge of a container runtime does, is that program's to judge, and if there is such a one at
the end, forwarding stays on for it. A host that forwarded already keeps its own rules.

A router ignores router advertisements unless it is told otherwise (accept_ra = 2), and would lose the default routes that it has from them.

The table keeps note of what we changed: it lives exactly as long as the switches do, so that the start after a kill knows what to
turn off, and the start after a reboot has nothing to undo.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kairos.errors import Refused

_log = logging.getLogger(__name__)
_SWITCHES = {
    "turned_on_ipv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "turned_on_ipv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
_FAMILIES = {"turned_on_ipv4": "ipv4", "turned_on_ipv6": "ipv6"}
_IPV6 = Path("/proc/sys/net/ipv6/conf")
_INTERFACES = Path("/sys/class/net")
_OURS = ("kairos", "kru")  # how the names of our interfaces begin: TUNs, and the host's ends of ways out
_HAD, _RA = "had", "accepts_ra"  # sets of the table: interfaces from before, and those whose accept_ra we changed


class Forwarding:
    """table: its name, ours alone. A context manager: at its end the host is as it
    was, also after an earlier kill."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._turned_on: set[str] = set()
        self._had: set[str] = set()
        self._accepts_ra: set[str] = set()

    async def __aenter__(self) -> Forwarding:
        left = await nft("list", "tables")
        if f"table inet {self._table}" in left.splitlines():
            shown = await nft("list", "table", "inet", self._table)
            self._turned_on = {name for name in _SWITCHES if f"chain {name} " in shown}
            self._had, self._accepts_ra = _elements(shown, _HAD), _elements(shown, _RA)
            await self.stop()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def apply(self, chains: str) -> None:
        """The whole table, replaced in one transaction; then the switches. Raises Refused."""
        turned_on = {name for name, switch in _SWITCHES.items() if _read(switch) == "0"}
        if turned_on and not self._turned_on:
            self._had = self._interfaces()
        self._turned_on |= turned_on
        if self._turned_on:
            self._had |= {name for name in self._interfaces() if (_INTERFACES / name / "device").exists()}
        if "turned_on_ipv6" in self._turned_on:
            self._accepts_ra |= {name for name in [*self._interfaces(), "default"] if _read(_accept_ra(name)) == "1"}
        notes = "".join(f"chain {name} {{ }}\n" for name in sorted(self._turned_on))
        await nft("-f", "-", script=f"{self._gone()} table inet {self._table} {{ {notes} {self._others()} {chains}\n}}")
        for name in self._accepts_ra:  # before the switch, which removes what routers have advertised
            _write(_accept_ra(name), "2")
        for name in self._turned_on:
            _SWITCHES[name].write_text("1")

    async def stop(self) -> None:
        if others := [name for name in self._interfaces() - self._had if (_INTERFACES / name / "bridge").exists()]:
            if self._turned_on:
                _log.warning("forwarding stays on for what came meanwhile: %s", ", ".join(sorted(others)))
        else:
            for name in self._turned_on:
                _SWITCHES[name].write_text("0")
            new = self._interfaces() - self._had if "default" in self._accepts_ra else set()  # they began with ours
            for name in self._accepts_ra | new:
                if _read(_accept_ra(name)) == "2":
                    _write(_accept_ra(name), "1")
        self._turned_on, self._had, self._accepts_ra = set(), set(), set()
        await nft("-f", "-", script=self._gone())

    def _others(self) -> str:
        """Of the IP versions that were not forwarded before: nothing between the interfaces that the host had."""
        drops = "\n".join(
            f"meta nfproto {_FAMILIES[name]} iifname @{_HAD} oifname @{_HAD} drop" for name in sorted(self._turned_on)
        )
        return f"""
            set {_HAD} {{ type ifname; {_listed(self._had)} }}
            set {_RA} {{ type ifname; {_listed(self._accepts_ra)} }}
            chain others {{
                type filter hook forward priority filter; policy accept;
                {drops}
            }}
        """

    def _interfaces(self) -> set[str]:
        """Those of the host, without ours."""
        names = {name for _, name in socket.if_nameindex()} - {"lo"}
        return {name for name in names if not name.startswith(_OURS)}

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


def _write(switch: Path, value: str) -> None:
    with suppress(FileNotFoundError):  # the interface is gone
        switch.write_text(value)


def _accept_ra(interface: str) -> Path:
    return _IPV6 / interface / "accept_ra"


def _listed(interfaces: Iterable[str]) -> str:
    names = ", ".join(f'"{name}"' for name in sorted(interfaces))
    return f"elements = {{ {names} }}" if names else ""


def _elements(shown: str, name: str) -> set[str]:
    """Of a set of interfaces, out of what nft shows of its table."""
    found = re.search(rf"set {name} {{(.*?)}}\s*}}", shown, re.DOTALL)
    return set(re.findall(r'"([^"]+)"', found[1])) if found is not None else set()
