"""Two tunnel machines on a virtual clock: docs/protocol.md §7."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.constants import CONTROL_MESSAGES_BURST, CONTROL_MESSAGES_PER_S
from kairos.crypto.suites import KR1
from kairos.errors import BadMessage, IllegalMove
from kairos.protocol import tunnel as t
from kairos.wire.control import (
    Config,
    Confirm,
    KemAnswer,
    KemOffer,
    Message,
    Ping,
    Pong,
    VniConfig,
    encode,
    parse_message_untrusted,
)
from toy_provider import ToyProvider

EXPORTER = b"x" * 48


def config(revision: int, *vnis: int) -> Config:
    return Config(revision, tuple(VniConfig(v, f"v{v}", 100 + v, 1380, (), (), "") for v in vnis), ())


class Sim:
    """Both ends and what their data planes hold. Messages cross only by `run`; time moves only by `advance`."""

    def __init__(self, exporter: bytes = EXPORTER) -> None:
        provider = ToyProvider()
        ep, gw = provider.signing_key(KR1, b"ep"), provider.signing_key(KR1, b"gw")
        self.now = 0.0
        self.endpoint = t.EndpointTunnel(t.Identities(KR1, provider, ep, gw.public_key, exporter), "s-1", self.now)
        self.gateway = t.GatewayTunnel(t.Identities(KR1, provider, gw, ep.public_key, EXPORTER), self.now)
        self.receive: dict[str, dict[int, dict[int, bytes]]] = {"ep": {}, "gw": {}}
        self.transmit: dict[str, tuple[int, dict[int, bytes]]] = {}
        self.installed: dict[tuple[str, str, int, int], int] = defaultdict(int)
        self.closed: dict[str, str] = {}
        self.queue: list[tuple[str, Message]] = []
        self.vnis = config(1, 7)
        self.tamper: Callable[[str, Message], Message | None] = lambda side, message: message

    def machine(self, side: str) -> t.Tunnel:
        return self.endpoint if side == "ep" else self.gateway

    def apply(self, side: str, effects: t.Effects) -> None:
        for effect in effects:
            match effect:
                case t.Send(message):
                    self.queue.append(("gw" if side == "ep" else "ep", message))
                case t.VerifySession():
                    self.apply(side, self.gateway.accept(self.vnis, self.now + 300, self.now))
                case t.Configure(c):
                    indexes = {v.vni: 500 + v.vni for v in c.vnis}
                    self.apply(side, self.endpoint.confirm(c.revision, indexes, self.now))
                case t.InstallReceive(epoch, keys):
                    self.receive[side][epoch] = {v: k.key for v, k in keys.items()}
                    self.count(side, "rx", epoch, list(keys))
                case t.InstallTransmit(epoch, keys):
                    self.transmit[side] = (epoch, {v: k.key for v, k in keys.items()})
                    self.count(side, "tx", epoch, list(keys))
                    self.check_peer_can_open(side)
                case t.RetireReceive(epoch):
                    del self.receive[side][epoch]
                case t.Closed(code, _):
                    self.closed[side] = code

    def count(self, side: str, way: str, epoch: int, vnis: list[int]) -> None:
        for vni in vnis:
            self.installed[side, way, epoch, vni] += 1
            assert self.installed[side, way, epoch, vni] == 1, "a counter would start again under this key"

    def check_peer_can_open(self, side: str) -> None:
        """Hitless: what one end sends under, the other already receives under (once both are established)."""
        epoch, keys = self.transmit[side]
        peer = self.receive["gw" if side == "ep" else "ep"]
        if epoch > 0:
            assert all(peer[epoch].get(vni) == key for vni, key in keys.items() if vni in peer[epoch])

    def run(self) -> None:
        while self.queue:
            side, message = self.queue.pop(0)
            tampered = self.tamper(side, message)
            if tampered is not None:
                self.apply(side, self.machine(side).receive(tampered, self.now))

    def start(self) -> Sim:
        self.apply("ep", self.endpoint.start("test"))
        self.run()
        return self

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = [d[0] for m in (self.endpoint, self.gateway) if (d := m.next_deadline()) and d[0] <= end]
            if not due:
                break
            self.now = max(self.now, min(due))
            for side in ("ep", "gw"):
                self.apply(side, self.machine(side).tick(self.now))
            self.run()
        self.now = end


def test_handshake_gives_both_ends_the_same_keys() -> None:
    sim = Sim().start()
    assert sim.endpoint.state is sim.gateway.state is t.State.ESTABLISHED
    assert sim.transmit["ep"][1] == sim.receive["gw"][0]
    assert sim.transmit["gw"][1] == sim.receive["ep"][0]
    assert sim.transmit["ep"][1] != sim.transmit["gw"][1]


def test_rekey_is_hitless_and_old_epoch_is_retired_after_ten_seconds() -> None:
    sim = Sim().start()
    sim.advance(119)
    assert sim.transmit["ep"][0] == 0
    sim.advance(2)
    assert sim.transmit["ep"][0] == sim.transmit["gw"][0] == 1
    assert set(sim.receive["ep"]) == set(sim.receive["gw"]) == {0, 1}
    sim.advance(11)
    assert set(sim.receive["ep"]) == set(sim.receive["gw"]) == {1}


def test_session_end_closes_both_ends_by_own_clock() -> None:
    sim = Sim().start()
    sim.advance(301)
    assert sim.closed == {"gw": "session-expired", "ep": "session-expired"}
    assert sim.endpoint.epoch_secret is None


def test_renewed_session_lives_on() -> None:
    sim = Sim().start()
    sim.advance(200)
    sim.gateway.session_expires(sim.now + 300)
    sim.advance(250)
    assert not sim.closed


def test_silent_peer_is_given_up_after_ten_seconds() -> None:
    sim = Sim()
    sim.tamper = lambda side, message: None
    sim.start()
    sim.advance(11)
    assert sim.closed["ep"] == "handshake-timeout"


def test_different_exporters_cannot_agree() -> None:
    sim = Sim(exporter=b"y" * 48).start()
    assert set(sim.closed.values()) == {"bad-signature"}


def test_new_vni_waits_for_the_next_epoch() -> None:
    sim = Sim().start()
    sim.apply("gw", sim.gateway.reconfigure(config(2, 7, 8), sim.now))
    sim.run()
    assert sim.transmit["ep"][0] == sim.transmit["gw"][0] == 1
    assert set(sim.transmit["ep"][1]) == {7, 8}
    assert set(sim.receive["gw"][0]) == {7}


@given(st.lists(st.sampled_from(["join", "leave", "rekey", "wait"]), max_size=12))
def test_no_key_is_installed_twice_whatever_joins_and_leaves(steps: list[str]) -> None:
    sim = Sim().start()
    vnis, revision = {7}, 1
    for step in steps:
        if step == "wait":
            sim.run()
            sim.advance(60)
        elif step == "rekey":
            sim.apply("gw", sim.gateway.rekey(sim.now))
        else:
            revision += 1
            vnis = vnis | {8} if step == "join" else vnis - {8}
            sim.apply("gw", sim.gateway.reconfigure(config(revision, *sorted(vnis)), sim.now))
        if step != "rekey":
            sim.run()
        sim.gateway.session_expires(sim.now + 300)
    sim.run()
    sim.advance(130)
    assert not sim.closed
    assert set(sim.transmit["ep"][1]) == set(sim.transmit["gw"][1]) == vnis


@given(st.integers(0, 5), st.data())
def test_flipped_bit_ends_in_close_or_no_tunnel_but_never_in_different_keys(victim: int, data: st.DataObject) -> None:
    sim = Sim()
    seen = 0

    def flip(side: str, message: Message) -> Message | None:
        nonlocal seen
        seen += 1
        if seen - 1 != victim:
            return message
        wire = bytearray(encode(message)[4:])
        bit = data.draw(st.integers(0, len(wire) * 8 - 1))
        wire[bit // 8] ^= 1 << bit % 8
        try:
            return parse_message_untrusted(bytes(wire))
        except BadMessage:
            return None

    sim.tamper = flip
    sim.start()
    sim.advance(20)
    if not sim.closed:
        assert sim.transmit["ep"][1] == sim.receive["gw"][0]


def test_message_in_the_wrong_state_closes() -> None:
    sim = Sim().start()
    sim.apply("gw", sim.gateway.receive(config(9), sim.now))
    sim.run()
    assert sim.closed["gw"] == "unexpected-message"


def test_replayed_answer_closes() -> None:
    sim = Sim()
    answers: list[Message] = []

    def keep(_side: str, message: Message) -> Message:
        if isinstance(message, KemAnswer):
            answers.append(message)
        return message

    sim.tamper = keep
    sim.start()
    sim.apply("gw", sim.gateway.receive(answers[0], sim.now))
    assert sim.closed["gw"] == "wrong-epoch"


def test_illegal_moves_of_our_own_raise() -> None:
    sim = Sim()
    with pytest.raises(IllegalMove):
        sim.endpoint.rekey(0)
    with pytest.raises(IllegalMove):
        sim.endpoint.confirm(1, {}, 0)
    with pytest.raises(IllegalMove):
        sim.gateway.accept(config(1), 1, 0)


def test_confirming_what_was_not_configured_closes() -> None:
    sim = Sim()
    sim.tamper = lambda side, m: replace(m, indexes=((99, 1),)) if isinstance(m, Confirm) else m
    sim.start()
    assert sim.closed["gw"] == "wrong-vni"


@pytest.mark.parametrize("side", ["gw", "ep"])
def test_a_flood_of_pings_is_answered_up_to_a_rate_and_closes(side: str) -> None:
    sim = Sim().start()
    sim.advance(60)
    effects: t.Effects = []
    for token in range(10 * CONTROL_MESSAGES_BURST):
        effects += sim.machine(side).receive(Ping(token), sim.now)
    answered = [effect for effect in effects if isinstance(effect, t.Send) and isinstance(effect.message, Pong)]
    assert len(answered) == CONTROL_MESSAGES_BURST
    assert isinstance(effects[-1], t.Closed)
    assert effects[-1].code == "flooding"


def test_pings_at_the_rate_are_answered_for_ever() -> None:
    sim = Sim().start()
    for token in range(5 * CONTROL_MESSAGES_BURST):
        now = sim.now + token / CONTROL_MESSAGES_PER_S
        assert sim.gateway.receive(Ping(token), now) == [t.Send(Pong(token))]


def test_a_confirm_that_nothing_waits_for_forces_no_rekey() -> None:
    sim = Sim().start()
    effects = sim.gateway.receive(Confirm(1, ((7, 507),)), sim.now)
    assert not [each for each in effects if isinstance(each, t.Send) and isinstance(each.message, KemOffer)]
    assert isinstance(effects[-1], t.Closed)
    assert effects[-1].code == "wrong-revision"


def test_of_configs_that_follow_each_other_the_last_confirm_counts() -> None:
    sim = Sim().start()
    sim.apply("gw", sim.gateway.reconfigure(config(2, 7, 8), sim.now))
    sim.apply("gw", sim.gateway.reconfigure(config(3, 7, 9), sim.now))
    sim.run()
    assert not sim.closed
    assert set(sim.transmit["ep"][1]) == set(sim.transmit["gw"][1]) == {7, 9}
    assert sim.transmit["gw"][0] == 1


def test_the_confirm_of_the_last_config_confirms_those_before_it() -> None:
    sim = Sim().start()
    sim.gateway.reconfigure(config(2, 7, 8), sim.now)
    sim.gateway.reconfigure(config(3, 7, 9), sim.now)
    effects = sim.gateway.receive(Confirm(3, ((7, 507), (9, 509))), sim.now)
    assert effects[0] == t.PeerIndexes({7: 507, 9: 509})
    assert sim.gateway.receive(Confirm(2, ()), sim.now)[-1] == t.Closed(
        "wrong-revision", "confirms revision 2, which waits for no Confirm"
    )
