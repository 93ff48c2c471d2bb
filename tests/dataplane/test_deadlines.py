"""Keys, sessions, leases and verdicts end in time, with nobody there to end them: what is past its deadline is as if it were gone."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from engine_rig import HOST, PEER, VNI, Rig, both_ways, udp_packet, wait_until, whole
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Verdict
from kairos_dataplane.engine import NEVER, boottime_ms

PACKET, BACK = udp_packet(PEER, HOST, b"there"), udp_packet(HOST, PEER, b"back", (5000, 4000))


def both_dropped(rig: Rig, name: str) -> None:
    rig.put(rig.seal(whole(PACKET)))
    rig.tun.send(bytes(10) + BACK)
    wait_until(lambda: rig.drops() == {name: 2})
    assert rig.to_host() == []
    assert rig.sent() == []


def test_a_session_ends_at_its_deadline_and_lives_on_when_it_is_prolonged(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    rig.engine.set_deadline(rig.session, boottime_ms() - 1)
    both_dropped(rig, "drop_expired_session")
    with pytest.raises(OSError, match="expired"):
        rig.engine.send_control(rig.session, DatagramType.KEEPALIVE, b"")
    rig.engine.set_deadline(rig.session, boottime_ms(60))
    rig.put(rig.seal(whole(PACKET)))
    assert len(rig.to_host()) == 1


def test_keys_end_at_their_deadline(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    rig.engine.install_keys(both_ways(rig.session, 1, boottime_ms() - 1))
    rig.put(rig.seal(whole(PACKET), epoch=1))
    rig.tun.send(bytes(10) + BACK)
    wait_until(lambda: rig.drops() == {"drop_expired_key": 2})
    rig.put(rig.seal(whole(PACKET), epoch=0))  # has a life of its own
    assert len(rig.to_host()) == 1


def test_a_lease_ends_at_its_deadline_and_another_of_the_same_source_counts(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    rig.engine.add_lease(rig.session, ip_network(f"{PEER}/32"), boottime_ms() - 1)
    rig.put(rig.seal(whole(PACKET)))
    assert rig.drops() == {"drop_expired_lease": 1}
    assert rig.engine.session_offences(rig.session).spoofed == 0
    rig.engine.add_lease(rig.session, ip_network("10.77.0.0/24"), boottime_ms(60))
    rig.put(rig.seal(whole(PACKET)))
    assert len(rig.to_host()) == 1


def test_an_allow_ends_at_its_deadline_until_there_is_another(rig: Rig) -> None:
    flow = rig.allow_from_peer(PACKET)
    assert rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 1, boottime_ms() - 1)
    both_dropped(rig, "drop_expired_verdict")
    assert rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 2, boottime_ms(60))
    rig.put(rig.seal(whole(PACKET)))
    assert len(rig.to_host()) == 1


@pytest.mark.parametrize("drop", ["drop_expired_session", "drop_expired_lease", "drop_expired_verdict"])
def test_what_ended_while_a_packet_waited_counts_when_its_flow_is_allowed(rig: Rig, drop: str) -> None:
    rig.put(rig.seal(whole(PACKET)))
    (flow,) = rig.opened()
    over = boottime_ms() - 1
    if drop == "drop_expired_session":
        rig.engine.set_deadline(rig.session, over)
    elif drop == "drop_expired_lease":
        rig.engine.add_lease(rig.session, ip_network(f"{PEER}/32"), over)
    rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 1, over if drop == "drop_expired_verdict" else NEVER)
    assert rig.drops() == {drop: 1}
    assert rig.to_host() == []


def test_what_has_no_deadline_does_not_end(rig: Rig) -> None:
    flow = rig.allow_from_peer(PACKET)
    rig.engine.set_deadline(rig.session, NEVER)
    rig.engine.add_lease(rig.session, ip_network(f"{PEER}/32"), NEVER)
    assert rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 1, NEVER)
    rig.put(rig.seal(whole(PACKET)))
    assert len(rig.to_host()) == 1
    assert rig.engine.flows()[0].vni == VNI
