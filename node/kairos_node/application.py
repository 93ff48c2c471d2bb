"""Which program opened a socket of this host: asked of the kernel (sock_diag) while the first packet of the connection waits.

Any doubt is no answer. A program that was replaced since it started, or that runs under another root, is not the one that
its path names here, so its path is left out.
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

from kairos.policy.input import Application
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
        """protocol: 6 or 17; place: the network namespace of the socket, None for ours. Cannot fail: None when the kernel or /proc does not tell."""
        try:
            ask = partial(_owner, protocol, source, destination)
            owner = place.call(ask) if place is not None else ask()
            if owner is None:
                return None
            uid, inode = owner
            pid = self._holder(uid, inode)
            return None if pid is None else Application(_path(pid), uid, _unit(pid), self._sha256(pid))
        except OSError:
            return None

    def _holder(self, uid: int, inode: int) -> int | None:
        """The process that has this socket open."""
        wanted = f"socket:[{inode}]"
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
    """`nginx.service`; empty for a process of no systemd unit."""
    with suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        for line in file:
            name = line.strip().rpartition("/")[2]
            if name.endswith((".service", ".scope")):
                return name
    return ""
