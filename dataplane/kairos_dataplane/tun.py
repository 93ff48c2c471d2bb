"""Opening a TUN with the offloads the data plane wants (Linux uapi if_tun.h)."""

from __future__ import annotations

import fcntl
import os
import struct

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_F_CSUM, _F_TSO4, _F_TSO6, _F_TSO_ECN, _F_USO4, _F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40


def open_tun(name: str) -> int:
    """A new TUN interface of that name in the caller's network namespace; it lives as long as the descriptor.

    Raises OSError: EBUSY when the name is taken, EPERM without CAP_NET_ADMIN.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        offloads = _F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads | _F_USO4 | _F_USO6)
        except OSError:  # kernels before 6.2 have no UDP segmentation on a TUN
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
    except OSError:
        os.close(fd)
        raise
    return fd
