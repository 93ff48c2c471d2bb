"""Inside a VNI the network behaves as one: hops answer, errors come back, large datagrams arrive in fragments."""

from __future__ import annotations

from overlay import WEB, Overlay, sh

SMALL_MTU = 1280  # of the network behind the gateway; the VNI's is 1380


def test_errors_and_fragments_as_on_a_network(overlay: Overlay) -> None:
    """The pings that are the first of their flow go in fragments too: these wait for their verdict together."""
    overlay.up(*overlay.hosts)
    alice, bob, gateway = overlay.alice, overlay.address_of(overlay.bob), overlay.gateway
    for to in (bob, "fd07::1", WEB):
        assert alice.run("ping", "-c1", "-W5", "-s", "4000", to).returncode == 0, to
    hop = alice.run("ping", "-c1", "-W5", "-t", "1", WEB).stdout
    assert "From 10.8.0.1 icmp_seq=1 Time to live exceeded" in hop
    ends = [(gateway.namespace, "lan"), (gateway.namespace.replace("gateway", "web"), "eth0")]
    for namespace, link in ends:
        sh(f"ip -n {namespace} link set dev {link} mtu {SMALL_MTU}")
    try:
        told = alice.run("ping", "-c2", "-W5", "-M", "do", "-s", "1300", WEB)
        assert f"mtu = {SMALL_MTU}" in told.stdout + told.stderr
        assert alice.run("ping", "-c1", "-W5", "-s", "1300", WEB).returncode == 0
    finally:
        for namespace, link in ends:
            sh(f"ip -n {namespace} link set dev {link} mtu 1500")
