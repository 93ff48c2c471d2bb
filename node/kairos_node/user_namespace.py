"""Networks of one's own without root: a user namespace, in which this process may make network namespaces that nobody else sees.

    this process --unshare(NEWUSER)--> still on the host's network, for fabric and gateway
      thread of VNI 7 --unshare(NEWNET)--> a TUN, its addresses and routes; sockets that it makes stay there
      thread of VNI 9 --unshare(NEWNET)--> ...

A thread that went in cannot come back, for the host's network is not ours to enter. So each namespace has one that stays.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import AsyncIPRoute

from kairos.errors import Refused
from kairos_node.namespace import Namespace
from kairos_node.packet_link import FAR_MAC, NEAR_MAC, open_packet_link

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_TUN = Path("/dev/net/tun")
_MTU_MAX = 65_535  # of a veth; the near end's is set to the VNI's later
_ADVICE = (
    "an administrator allows it with sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), "
    "kernel.unprivileged_userns_clone=1 (Debian) or user.max_user_namespaces, or runs `kairos agent run` instead"
)
_ADVICE_TO_ROOT = (
    "root needs CAP_SETFCAP for it, and a container that may unshare; another user needs neither capability"
)
_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12
_T = TypeVar("_T")


def enter_user_namespace() -> None:
    """This process gets every capability over namespaces that it makes, and loses what it had over the host's. Its user stays
    who it is. Call it before there is a second thread. Raises Refused where the host does not allow it."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")  # the kernel's price for a group map
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        with ThreadPoolExecutor(1) as trial:  # AppArmor lets the first step pass and refuses this one
            trial.submit(_unshare, _CLONE_NEWNET).result()
    except OSError as error:
        advice = _ADVICE if uid else _ADVICE_TO_ROOT
        raise Refused(
            "not-allowed", f"this host gives no namespaces of one's own: {error.strerror}; {advice}"
        ) from None


def _unshare(what: int) -> None:
    if _libc.unshare(what):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _NetlinkInside(AsyncIPRoute):  # type: ignore[misc]  # its library has no types
    """Its socket is made in there, and used from here."""

    def __init__(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._call = call

    def setup_socket(self) -> Any:
        return self._call(super().setup_socket)


class ThreadNamespace(Namespace):
    """A network namespace of this process alone: it has no name on the host, and ends with its thread and the last of its
    sockets."""

    def __init__(self) -> None:
        """Raises OSError, outside of a user namespace of our own."""
        self._thread = ThreadPoolExecutor(1, "kairos-vni")
        self._thread.submit(_unshare, _CLONE_NEWNET).result()
        super().__init__("", _NetlinkInside(self.call))

    @classmethod
    async def make(cls, name: str) -> ThreadNamespace:
        """name: of no use here."""
        namespace = cls()
        await namespace.raise_loopback()
        return namespace

    async def make_tun(self, name: str) -> tuple[int, int]:
        """Where this user may open none, a veth pair, which costs a copy of every packet."""
        if os.access(_TUN, os.R_OK | os.W_OK):
            return await super().make_tun(name)
        _log.info("%s is closed to this user: %s is a veth pair", _TUN, name)
        far = f"{name}f"
        await self.netlink.link(
            "add", ifname=name, kind="veth", address=NEAR_MAC, peer={"ifname": far, "address": FAR_MAC}
        )
        for end in (far, name):
            (index,) = await self.netlink.link_lookup(ifname=end)
            await self.netlink.link("set", index=index, arp=False, mtu=_MTU_MAX, state="up")
        return self.call(partial(open_packet_link, far)), index

    def call(self, function: Callable[[], _T]) -> _T:
        return self._thread.submit(function).result()

    async def remove(self, ours: str) -> None:
        self.netlink.close()
        self._thread.shutdown()
