"""What stands in for a TUN where /dev/net/tun is closed to us: a veth pair, with us as the host at its far end.

    kernel -- near end (the VNI's addresses, routes) == far end -- packet socket -- this thread -- socket pair -- data plane

Both sides speak virtio_net_hdr, so super-packets pass whole and checksums stay undone; an Ethernet header is all that differs.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading

ETHER_BYTES = 14
VNET = struct.Struct("=BBHHHH")  # flags, gso type, header length, segment size, where the checksum starts, its offset
NEAR_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_MACS = bytes.fromhex((NEAR_MAC + FAR_MAC).replace(":", ""))
_NEEDS_CHECKSUM = 1
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_ETH_P_ALL = 0x0003
_BUFFER = 4 * 1024 * 1024  # 64 super-packets
_FRAME_MAX = VNET.size + ETHER_BYTES + 65_535
_ROUND = 64  # frames of one side before the other has its turn


def open_packet_link(far: str) -> int:
    """The data plane's end, read and written as a TUN's descriptor is; when it is closed the thread ends. far: name of the far
    end, in the caller's network namespace. Raises OSError, without CAP_NET_RAW there."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    wire.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    wire.bind((far, _ETH_P_ALL))
    ours, engines = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (wire, ours, engines):
        end.setblocking(False)
        with contextlib.suppress(OSError):  # smaller ones do, slower
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
            end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    threading.Thread(target=_carry, args=(wire, ours), name=far, daemon=True).start()
    return engines.detach()


def _carry(wire: socket.socket, engine: socket.socket) -> None:
    """Until the data plane closes its end. What a side has no room for is lost, as on any link."""
    waiting = select.poll()
    for end in (wire, engine):
        waiting.register(end, select.POLLIN)
    with wire, engine:
        while True:
            waiting.poll()
            for _ in range(_ROUND):
                frame = _taken(wire)
                if not frame:
                    break
                if bare := without_ether(frame):
                    _given(engine, bare)
            for _ in range(_ROUND):
                packet = _taken(engine)
                if packet is None:
                    break
                if not packet:
                    return
                if framed := with_ether(packet):
                    _given(wire, framed)


def without_ether(frame: bytes) -> bytes:
    """What a TUN would give; empty for what is not IP."""
    flags, kind, header, size, start, offset = VNET.unpack_from(frame)
    ether = frame[VNET.size : VNET.size + ETHER_BYTES]
    if ether[12:] not in _ETHERTYPES.values():
        return b""
    if kind:
        header -= ETHER_BYTES
    if flags & _NEEDS_CHECKSUM:
        start -= ETHER_BYTES
    return VNET.pack(flags, kind, header, size, start, offset) + frame[VNET.size + ETHER_BYTES :]


def with_ether(packet: bytes) -> bytes:
    """What a packet socket takes; empty for what is not IP."""
    flags, kind, header, size, start, offset = VNET.unpack_from(packet)
    ethertype = _ETHERTYPES.get(packet[VNET.size] >> 4)
    if ethertype is None:
        return b""
    if kind:
        header += ETHER_BYTES
    if flags & _NEEDS_CHECKSUM:
        start += ETHER_BYTES
    return VNET.pack(flags, kind, header, size, start, offset) + _MACS + ethertype + packet[VNET.size :]


def _taken(end: socket.socket) -> bytes | None:
    """None: nothing there now. Empty: the other end is closed."""
    try:
        return end.recv(_FRAME_MAX)
    except BlockingIOError:
        return None
    except OSError:  # the far end is down, as it is when its namespace goes
        return b""


def _given(end: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        end.send(data)
