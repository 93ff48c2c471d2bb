"""Where a packet goes when something of its way is missing, and what a source must belong to. On each engine."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from engine_rig import HOST, HOST6, PEER, PEER6, VNI, Rig, both_ways, udp_packet, whole
from kairos_dataplane import Verdict


def outcome(rig: Rig, packet: bytes) -> dict[str, int]:
    """The drops of a packet of the host whose flow is allowed."""
    rig.from_host(packet)
    rig.judge(Verdict.ALLOW)
    return rig.drops()


def test_a_packet_for_a_session_without_a_key_is_dropped(rig: Rig) -> None:
    session = rig.engine.add_session(VNI)
    rig.engine.add_route(VNI, ip_network("10.77.3.0/24"), session)
    assert outcome(rig, udp_packet(HOST, "10.77.3.1", b"x")) == {"drop_no_key": 1}


def test_a_packet_for_a_session_without_a_path_is_dropped(rig: Rig) -> None:
    session = rig.engine.add_session(VNI)
    rig.engine.install_keys(both_ways(session))
    rig.engine.add_route(VNI, ip_network("10.77.3.0/24"), session)
    assert outcome(rig, udp_packet(HOST, "10.77.3.1", b"x")) == {"drop_no_path": 1}


def test_a_direct_path_ends_with_the_socket(rig: Rig) -> None:
    with rig.over_udp() as (ours, _):
        rig.engine.set_udp(ours.fileno())  # the same again
        rig.engine.set_udp(-1)
        assert outcome(rig, udp_packet(HOST, PEER, b"x")) == {"drop_no_path": 1}
        rig.engine.set_udp(-1)


def test_a_route_to_a_session_that_is_not_there_leads_nowhere(rig: Rig) -> None:
    rig.engine.add_route(VNI, ip_network("10.77.3.0/24"), 12345)
    assert outcome(rig, udp_packet(HOST, "10.77.3.1", b"x")) == {"drop_no_route": 1}


@pytest.mark.parametrize(("source", "leased"), [("10.78.7.255", True), ("10.78.8.0", False), ("10.79.4.1", False)])
def test_a_lease_need_not_end_with_an_octet(rig: Rig, source: str, leased: bool) -> None:
    rig.engine.add_lease(rig.session, ip_network("10.78.4.0/22"))
    rig.put(rig.seal(whole(udp_packet(source, HOST, b"x"))))
    assert len(rig.opened()) == leased
    assert rig.drops() == ({} if leased else {"drop_spoofed_source": 1})


@pytest.mark.parametrize("target", ["224.0.0.251", "ff02::fb", "fe80::1", "febf::1"])
def test_what_is_for_a_link_does_not_leave_it(rig: Rig, target: str) -> None:
    rig.put(rig.seal(whole(udp_packet(PEER6 if ":" in target else PEER, target, b"x"))))
    assert rig.drops() == {"drop_multicast": 1}


def test_a_small_path_is_told_as_the_least_that_ipv6_allows(rig: Rig) -> None:
    rig.engine.set_limit(rig.session, 1000)
    rig.from_host(udp_packet(HOST6, PEER6, bytes(1400)))
    rig.judge()
    ((_, told),) = rig.to_host()
    assert (told[6], told[40], int.from_bytes(told[44:48])) == (58, 2, 1280)
