"""The Ethernet header that is all the difference between a TUN and a packet socket."""

from __future__ import annotations

import pytest

from kairos_node.packet_link import ETHER_BYTES, VNET, with_ether, without_ether

IPV4, IPV6 = b"\x45" + bytes(59), b"\x60" + bytes(59)
NEEDS_CHECKSUM, TCPV4 = 1, 1


@pytest.mark.parametrize(
    ("header", "shifted"),
    [
        ((0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0)),
        ((NEEDS_CHECKSUM, 0, 0, 0, 20, 16), (NEEDS_CHECKSUM, 0, 0, 0, 34, 16)),
        ((NEEDS_CHECKSUM, TCPV4, 40, 1340, 20, 16), (NEEDS_CHECKSUM, TCPV4, 54, 1340, 34, 16)),
    ],
)
@pytest.mark.parametrize("ip", [IPV4, IPV6])
def test_offsets_move_by_what_stands_before_the_packet(
    header: tuple[int, ...], shifted: tuple[int, ...], ip: bytes
) -> None:
    frame = with_ether(VNET.pack(*header) + ip)
    assert VNET.unpack_from(frame) == shifted
    assert len(frame) == VNET.size + ETHER_BYTES + len(ip)
    assert without_ether(frame) == VNET.pack(*header) + ip


def test_what_is_not_ip_goes_nowhere() -> None:
    empty = VNET.pack(0, 0, 0, 0, 0, 0)
    assert not with_ether(empty + bytes(60))
    assert not without_ether(empty + bytes(12) + b"\x08\x06" + bytes(28))  # ARP
