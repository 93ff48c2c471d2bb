"""A gateway with its host and three peers in one VNI, of which any may be the attacker.

host 10.77.0.1, the TUN    peer .2    bob .3    mallory .4; the same in fd77::/64
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

from engine_rig import RELAY, VNI, Rig, both_ways, open_datagram, rig_on, whole
from kairos.wire.datagram import DatagramType
from kairos_dataplane import Flow, Verdict
from kairos_dataplane.pure.segments import whole_untrusted

PARTIES = ("host", "peer", "bob", "mallory")


def address(party: str, version: int = 4) -> str:
    return f"{'10.77.0.' if version == 4 else 'fd77::'}{PARTIES.index(party) + 1}"


class Parties:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sessions = {"peer": rig.session}
        self._relays = {"peer": RELAY}
        for relay, party in enumerate(PARTIES[2:], 10):
            self.sessions[party] = session = rig.engine.add_session(VNI)
            self._relays[party] = relay
            rig.engine.add_relay(relay)
            rig.engine.set_remote(session, 100 + relay)
            for prefix in (f"{address(party)}/32", f"{address(party, 6)}/128"):
                rig.engine.add_lease(session, ip_network(prefix))
                rig.engine.add_route(VNI, ip_network(prefix), session)
            rig.engine.install_keys(both_ways(session))
            rig.engine.use_relay(session, relay, follow=False)

    def send(self, party: str, *packets: bytes) -> None:
        if party == "host":
            self.rig.from_host(*packets)
        else:
            session = self.sessions[party]
            self.rig.put(*(self.rig.seal(whole(packet), session=session) for packet in packets))

    def send_control(self, party: str, kind: DatagramType, payload: bytes = b"") -> None:
        self.rig.put(self.rig.seal(payload, kind, session=self.sessions[party]))

    def received(self, party: str) -> list[bytes]:
        """The packets that reached it since the last call. Checksums may be left to the kernel."""
        if party == "host":
            return [data for _, data in self.rig.to_host()]
        frame, packets = self.rig.engine.take_relay(self._relays[party]), []
        while frame:
            size = int.from_bytes(frame[:2])
            packets.append(whole_untrusted(open_datagram(frame[2 : 2 + size])[1])[1])
            frame = frame[2 + size :]
        return packets

    def allow(self, party: str, packet: bytes) -> Flow:
        """Opens the flow of `packet`, and forgets what came of it."""
        self.send(party, packet)
        (flow,) = self.rig.judge(Verdict.ALLOW)
        for each in PARTIES:
            self.received(each)
        return flow


@contextmanager
def parties_on(name: str) -> Iterator[Parties]:
    with rig_on(name) as rig:
        yield Parties(rig)
