"""Which program opened a socket of this host: asked of the kernel (sock_diag) while the first packet of the connection waits.

A fact in doubt is said to be in doubt: policy then allows nothing by it, and denies by it. A program that was replaced since it
started, or that runs under another root, is not the one that its path names here. Of several programs that hold one socket, as
after a fork and exec, any may use it.

This tells honest programs apart. Programs of one user can hide from it: one that sends a socket to itself over another holds no
descriptor meanwhile, and they may trace each other anyway.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from kairos.policy.input import UID_IN_DOUBT, UNIT_IN_DOUBT, Application
from kairos_node.namespace import Namespace

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states; then the socket's id
_ENDS = struct.Struct("!HH16s16s")
_ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # interface, cookie
_OWNER = struct.Struct("=II")  # uid, inode
_OWNER_AT = _HEADER.size + 4 + 48 + 12
_ANSWER_S = 0.05
_REMEMBERED = 64
_HASHED_MAX = 256 * 1024 * 1024  # a longer program is not worth the time the packet waits
_UDP = 17
_RELATIVES_MAX = 64
_KNOWS_CHILDREN = "/proc/thread-self/children"  # CONFIG_PROC_CHILDREN
Address = IPv4Address | IPv6Address


class Applications:
    """Remembers who opened sockets lately: whoever did mostly does again, and looking through all of /proc takes milliseconds."""

    def __init__(self) -> None:
        self._lately: OrderedDict[int, None] = OrderedDict()
        self._hashes: OrderedDict[tuple[int, ...], str] = OrderedDict()

    def of(
        self,
        protocol: int,
        source: tuple[Address, int],
        destination: tuple[Address, int],
        place: Namespace | None = None,
    ) -> Application | None:
        """protocol: 6 or 17; place: the network namespace of the socket, None for ours. Cannot fail: None when there is no such
        socket, and facts in doubt when the kernel or /proc does not tell."""
        try:
            ask = partial(_owner, protocol, source, destination)
            owner = place.call(ask) if place is not None else ask()
        except OSError:
            return _in_doubt(UID_IN_DOUBT)
        return None if owner is None else self._program(*owner)

    def _program(self, uid: int, inode: int) -> Application:
        wanted = f"socket:[{inode}]"
        try:
            first = self._holder(uid, wanted)
            if first is None:
                return _in_doubt(uid)
            found = self._application(first, uid)
            for pid in _others(first, wanted):
                other = self._application(pid, uid)
                found = Application(
                    found.path if found.path == other.path else "",
                    uid,
                    found.unit if found.unit == other.unit else UNIT_IN_DOUBT,
                    found.sha256 if found.sha256 == other.sha256 else "",
                )
            return found
        except OSError:
            return _in_doubt(uid)

    def _application(self, pid: int, uid: int) -> Application:
        return Application(_path(pid), uid, _unit(pid), self._sha256(pid))

    def _holder(self, uid: int, wanted: str) -> int | None:
        """A process that has this socket open."""
        for pid in [*reversed(self._lately), *_processes_of(uid)]:
            if _has_open(pid, wanted):
                self._lately[pid] = None
                self._lately.move_to_end(pid)
                if len(self._lately) > _REMEMBERED:
                    self._lately.popitem(last=False)
                return pid
        return None

    def _sha256(self, pid: int) -> str:
        """Of the file that runs, whatever its path names now. Known again by inode, size and the two times: ctime, unlike
        mtime, is nobody's to set."""
        with suppress(OSError), open(f"/proc/{pid}/exe", "rb") as program:
            about = os.fstat(program.fileno())
            file = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            if about.st_size > _HASHED_MAX:
                return ""
            if file not in self._hashes:
                self._hashes[file] = hashlib.file_digest(program, "sha256").hexdigest()
                if len(self._hashes) > _REMEMBERED:
                    self._hashes.popitem(last=False)
            return self._hashes[file]
        return ""


def user_of(protocol: int, source: tuple[Address, int], destination: tuple[Address, int]) -> int | None:
    """Who opened a socket in this process's network namespace, as it is seen from here. Cannot fail: None on any doubt."""
    with suppress(OSError):
        owner = _owner(protocol, source, destination)
        return None if owner is None else owner[0]
    return None


def _owner(protocol: int, source: tuple[Address, int], destination: tuple[Address, int]) -> tuple[int, int] | None:
    """uid and inode of exactly this socket."""
    family = socket.AF_INET if source[0].version == 4 else socket.AF_INET6
    # For UDP the kernel looks as if a packet came in: its source is our destination.
    near, far = (destination, source) if protocol == _UDP else (source, destination)
    body = _REQUEST.pack(family, protocol, 0, 0xFFFFFFFF)
    body += _ENDS.pack(near[1], far[1], near[0].packed, far[0].packed) + _ANY
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(_ANSWER_S)
        diag.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body)
        answer = diag.recv(4096)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR or len(answer) < _OWNER_AT + _OWNER.size:
        return None
    uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    return (uid, inode) if inode else None  # 0: the socket is closed already


def _in_doubt(uid: int) -> Application:
    return Application("", uid, UNIT_IN_DOUBT, "")


def _others(first: int, wanted: str) -> list[int]:
    """Processes that hold the socket too and run another program: of those before and behind the first, for a socket goes from
    parent to child. All of /proc would take milliseconds for every connection."""
    relatives = [*_ancestors(first), *_descendants(first)]
    return [pid for pid in relatives if not _same_program(pid, first) and _has_open(pid, wanted)]


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while len(found) < _RELATIVES_MAX and (pid := _parent(pid)) > 1:
        found.append(pid)
    return found


def _parent(pid: int) -> int:
    """0: it has none, or is gone."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
    return 0


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    unread = [pid]
    while unread and len(found) < _RELATIVES_MAX:
        children = _children(unread.pop())
        found += children
        unread += children
    return found[:_RELATIVES_MAX]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        return found
    if os.path.exists(_KNOWS_CHILDREN):
        return found  # it is gone
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _parent(int(name)) == pid]


def _same_program(one: int, other: int) -> bool:
    """The same file in the same cgroup: whichever of them it is, the answer is the same."""
    with suppress(OSError):
        same = os.path.samestat(os.stat(f"/proc/{one}/exe"), os.stat(f"/proc/{other}/exe"))
        return same and _unit(one) == _unit(other)
    return False


def _processes_of(uid: int) -> list[int]:
    found = []
    with os.scandir("/proc") as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.isdecimal() and entry.stat().st_uid == uid:
                    found.append(int(entry.name))
    return sorted(found, reverse=True)  # the youngest first


def _has_open(pid: int, wanted: str) -> bool:
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as files:
        for file in files:
            with suppress(OSError):
                if os.readlink(file.path) == wanted:
                    return True
    return False


def _path(pid: int) -> str:
    """Of the program's file, if that very file is what the path names here.

    In a chroot the kernel names it from a root that we do not see, so the ends of what it says are tried too; what decides is
    that the path leads to this very file.
    """
    link = f"/proc/{pid}/exe"
    with suppress(OSError):
        parts = os.readlink(link).split("/")
        program = os.stat(link)
        for start in range(1, len(parts)):
            path = "/" + "/".join(parts[start:])
            with suppress(OSError):
                if os.path.samestat(program, os.stat(path)):
                    return path
    return ""


def _unit(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            return unit_of(file.read())
    except (OSError, UnicodeError):
        return UNIT_IN_DOUBT


def unit_of(cgroups: str) -> str:
    """The unit in what /proc/PID/cgroup says; empty for a process of none. The first service or scope of the path is the system
    manager's, and what lies below is its own to name. Below `user@UID.service` that is a unit of the user's manager, which is
    told together with the manager's: a user's `nginx.service` is not the system's."""
    by_hierarchy = dict(line.split(":", 2)[1:] for line in cgroups.splitlines() if line.count(":") >= 2)
    path = by_hierarchy.get("name=systemd") or by_hierarchy.get("", "")  # cgroup v1 has a hierarchy of systemd's own
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        return UNIT_IN_DOUBT  # of another cgroup namespace: we see it from beside its root
    units = [part for part in parts if not part.endswith(".slice")]
    if not units or not units[0].endswith((".service", ".scope")):
        return ""
    if not units[0].startswith("user@"):
        return units[0]
    return "/".join(units[:2])
