"""Network namespaces of our own, as `ip netns` knows them: one for a VNI that must not share the host's routing.

They are named after the node, so that each daemon finds what it left and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from pyroute2 import AsyncIPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from kairos_dataplane.tun import open_tun

_PLACE = Path("/run/netns")
_T = TypeVar("_T")


class Namespace:
    """netlink speaks inside it."""

    def __init__(self, name: str, netlink: AsyncIPRoute) -> None:
        self.name = name
        self.netlink = netlink

    @classmethod
    async def make(cls, name: str) -> Namespace:
        """Raises OSError, without CAP_SYS_ADMIN or when there is one of that name."""
        await _ip("netns", "add", name)
        return await cls.open(name)

    @classmethod
    async def open(cls, name: str) -> Namespace:
        with _inside(name):  # `AsyncIPRoute(netns=...)` would fork, and the child share our event loop's signals
            netlink = AsyncIPRoute()
            assert netlink.socket is not None  # made now, so in there
        namespace = cls(name, netlink)
        await namespace.raise_loopback()
        return namespace

    async def raise_loopback(self) -> None:
        (loopback,) = await self.netlink.link_lookup(ifname="lo")
        await self.netlink.link("set", index=loopback, state="up")

    @staticmethod
    def path(name: str, daemon: int) -> str:
        """Where another process opens it: the daemon may have mounts of its own, as systemd gives them."""
        return f"/proc/{daemon}/root{_PLACE}/{name}"

    def call(self, function: Callable[[], _T]) -> _T:
        """What it returns when it runs inside: sockets and descriptors that it makes stay there."""
        with _inside(self.name):
            return function()

    async def make_tun(self, name: str) -> tuple[int, int]:
        """Its descriptor and its index in here. Raises OSError."""
        return self.call(partial(make_tun, name))

    async def take_in(self, host: AsyncIPRoute, interface: str) -> int:
        """Moves an interface of the host in here; its index. Raises OSError: ENODEV when there is none."""
        inside = self.call(lambda: _index_of(interface))
        if not inside:
            outside = _index_of(interface)
            if not outside:
                raise OSError(19, f"there is no interface {interface}")
            await host.link("set", index=outside, net_ns_fd=self.name)
            inside = self.call(lambda: _index_of(interface))
        return inside

    async def remove(self, ours: str) -> None:
        """Gives back what was taken in, all whose name does not begin with `ours`; then it is gone."""
        async for link in await self.netlink.get_links():
            name = link.get("ifname")
            if name != "lo" and not name.startswith(ours):
                with contextlib.suppress(NetlinkError):  # some kinds, as sit0, are in every namespace and never move
                    await self.netlink.link("set", index=link["index"], net_ns_pid=os.getpid())
        self.netlink.close()
        netns.remove(self.name)  # as `ip netns del`, without a process for each of a thousand


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
    netns.pushns(name)
    try:
        yield
    finally:
        netns.popns()


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *arguments, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise OSError(process.returncode, f"ip {' '.join(arguments)}: {said.decode(errors='replace').strip()}")


def name_of(node: str, vni: int) -> str:
    return f"{_stem(node)}{vni}"


async def clear_left_behind(node: str, realm: str) -> None:
    """realm: how the names of its TUNs begin. Removes ours of an earlier life. Where that one had mounts of its own (a service with PrivateTmp), the namespace went with
    it and only a name is left."""
    for name, alive in _left_behind(node):
        if alive:
            await (await Namespace.open(name)).remove(realm)
        else:
            (_PLACE / name).unlink()


def _left_behind(node: str) -> list[tuple[str, bool]]:
    if not _PLACE.exists():
        return []
    return [(path.name, path.stat().st_dev != _PLACE.stat().st_dev) for path in _PLACE.glob(f"{_stem(node)}*")]


def _stem(node: str) -> str:
    return f"kairos-{node}-"


def make_tun(name: str) -> tuple[int, int]:
    """Its descriptor and its index, in the namespace this thread is in."""
    fd = open_tun(name)
    try:
        return fd, socket.if_nametoindex(name)
    except OSError:
        os.close(fd)
        raise


def _index_of(interface: str) -> int:
    """In the namespace this thread is in; 0: there is none."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(interface)
    return 0
