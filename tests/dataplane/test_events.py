"""The ring of events when Python does not read it: what finds no room is counted, and all that found some is delivered."""

from __future__ import annotations

from engine_rig import HOST, PEER, Rig, udp_packet, whole
from kairos.wire.datagram import DatagramType

MANY = 3000


def test_an_event_is_delivered_or_counted_as_dropped(rig: Rig) -> None:
    rig.put(*(rig.seal(b"here", DatagramType.KEEPALIVE) for _ in range(MANY)))
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"new flow"))))
    dropped = rig.drops().get("drop_event_full", 0)
    delivered = len(rig.events())
    assert delivered + dropped == MANY + 1
    assert rig.engine.name == "pure" or dropped > 0
    rig.put(rig.seal(b"there is room again", DatagramType.KEEPALIVE))
    assert len(rig.events()) == 1
