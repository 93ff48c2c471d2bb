"""T3-T6 with the real mathematics: every pair of providers, in both suites, derives the same keys, and rekeys."""

from __future__ import annotations

from collections import deque

import pytest

from kairos.crypto.schedule import VniKey
from kairos.crypto.suites import KR1, KR5, Suite
from kairos.protocol import tunnel as t
from kairos.wire.control import Config, KemAnswer, KemOffer, Message, VniConfig, encode, parse_message_untrusted
from kairos_node.crypto import PROVIDERS, provider_named

EXPORTER = bytes(range(48))
VNI = 7
CONFIG = Config(1, (VniConfig(VNI, "office", 107, 1380, ("10.7.0.5/24",), (), ""),), ())

Keys = dict[str, tuple[int, VniKey]]


class Pair:
    """An endpoint and a gateway whose messages cross as bytes. keys: the newest of each end and direction."""

    def __init__(self, suite: Suite, endpoint: str, gateway: str) -> None:
        ours, theirs = provider_named(endpoint), provider_named(gateway)
        own, peer = ours.signing_key(suite, b"e" * 32), theirs.signing_key(suite, b"g" * 32)
        self.endpoint = t.EndpointTunnel(t.Identities(suite, ours, own, peer.public_key, EXPORTER), "s-1", 0.0)
        self.gateway = t.GatewayTunnel(t.Identities(suite, theirs, peer, own.public_key, EXPORTER), 0.0)
        self.keys: Keys = {}
        self.closed: str | None = None
        self.flip: type[Message] | None = None
        self._crossing: deque[tuple[t.Tunnel, bytes]] = deque()

    def start(self) -> None:
        self._apply(self.endpoint, self.endpoint.start("test"))
        self.run()

    def rekey(self, now: float) -> None:
        self._apply(self.gateway, self.gateway.tick(now))
        self.run()

    def run(self) -> None:
        while self._crossing:
            receiver, frame = self._crossing.popleft()
            self._apply(receiver, receiver.receive(parse_message_untrusted(frame[4:]), 0.0))

    def _apply(self, machine: t.Tunnel, effects: t.Effects) -> None:
        for effect in effects:
            match effect:
                case t.Send(message):
                    self._send(machine, message)
                case t.VerifySession():
                    self._apply(machine, self.gateway.accept(CONFIG, 1e9, 0.0))
                case t.Configure(config):
                    self._apply(machine, self.endpoint.confirm(config.revision, {VNI: 507}, 0.0))
                case t.InstallReceive(epoch, keys):
                    self.keys[f"{self._name(machine)} receives"] = (epoch, keys[VNI])
                case t.InstallTransmit(epoch, keys):
                    self.keys[f"{self._name(machine)} sends"] = (epoch, keys[VNI])
                case t.Closed(code, _):
                    self.closed = self.closed or code

    def _send(self, sender: t.Tunnel, message: Message) -> None:
        frame = bytearray(encode(message))
        if type(message) is self.flip:
            frame[-1] ^= 1
        self._crossing.append((self.gateway if sender is self.endpoint else self.endpoint, bytes(frame)))

    def _name(self, machine: t.Tunnel) -> str:
        return "endpoint" if machine is self.endpoint else "gateway"

    def agree_on(self, epoch: int) -> bool:
        keys = self.keys
        return (
            keys["endpoint sends"] == keys["gateway receives"]
            and keys["gateway sends"] == keys["endpoint receives"]
            and keys["endpoint sends"] != keys["gateway sends"]
            and keys["endpoint sends"][0] == epoch
        )


@pytest.mark.parametrize("suite", [KR1, KR5], ids=lambda suite: suite.name)
@pytest.mark.parametrize("endpoint", PROVIDERS)
@pytest.mark.parametrize("gateway", PROVIDERS)
def test_both_ends_derive_the_same_keys_and_rekey(suite: Suite, endpoint: str, gateway: str) -> None:
    pair = Pair(suite, endpoint, gateway)
    pair.start()
    assert pair.closed is None
    assert pair.agree_on(0)
    pair.rekey(121.0)
    assert pair.agree_on(1)


@pytest.mark.parametrize("endpoint", PROVIDERS)
@pytest.mark.parametrize("gateway", PROVIDERS)
@pytest.mark.parametrize("message", [KemOffer, KemAnswer])
def test_a_damaged_offer_or_answer_closes_the_tunnel(endpoint: str, gateway: str, message: type[Message]) -> None:
    pair = Pair(KR1, endpoint, gateway)
    pair.flip = message
    pair.start()
    assert pair.closed == "bad-signature"
