"""The tunnel, T3-T7, as two state machines over control messages (docs/protocol.md §7).

    endpoint   GREETED --offer--> ANSWERED --config--> CONFIRMED --ready--> ESTABLISHED --> CLOSED
    gateway    WAITING --hello--> VERIFYING --accept--> OFFERED --answer--> CONFIGURED --confirm--> ESTABLISHED --> CLOSED

Rekeying happens inside ESTABLISHED: the gateway offers epoch n+1, the endpoint installs its receive keys before it
answers, the gateway installs both and says Ready, the endpoint then sends under n+1. No datagram is ever undecryptable.

A (VNI, epoch) key is installed once in a tunnel's life, so no counter ever starts again under a key: a VNI that joins
a live tunnel waits for the next epoch, which a new Config always brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from kairos.constants import (
    CONTROL_MESSAGES_BURST,
    CONTROL_MESSAGES_PER_S,
    HANDSHAKE_WAIT_S,
    OLD_EPOCH_KEPT_S,
    REKEY_AFTER_S,
)
from kairos.crypto import labels, schedule
from kairos.crypto.provider import DecapsulationKey, Provider, SigningKey
from kairos.crypto.schedule import Direction, EpochSecret, VniKey
from kairos.crypto.suites import Suite
from kairos.errors import IllegalMove, Refused
from kairos.identity import transcript
from kairos.wire.control import Close, Config, Confirm, Hello, KemAnswer, KemOffer, Message, Ping, Pong, Ready


class State(Enum):
    GREETED = auto()
    ANSWERED = auto()
    CONFIRMED = auto()
    WAITING = auto()
    VERIFYING = auto()
    OFFERED = auto()
    CONFIGURED = auto()
    ESTABLISHED = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Send:
    """Put this message into the TLS channel."""

    message: Message


@dataclass(frozen=True, slots=True)
class VerifySession:
    """Gateway: is this session known, of this peer, and alive? Answer with `accept` or `close`."""

    session: str


@dataclass(frozen=True, slots=True)
class Configure:
    """Endpoint: set the VNIs up, then answer with `confirm`."""

    config: Config


@dataclass(frozen=True, slots=True)
class PeerIndexes:
    """Gateway: the endpoint's receiver index in each VNI."""

    indexes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class InstallReceive:
    """Give the data plane the receive keys of an epoch, by VNI."""

    epoch: int
    keys: Mapping[int, VniKey]


@dataclass(frozen=True, slots=True)
class InstallTransmit:
    """Give the data plane the transmit keys of an epoch: it sends under them from now on."""

    epoch: int
    keys: Mapping[int, VniKey]


@dataclass(frozen=True, slots=True)
class RetireReceive:
    """Wipe the receive keys of an old epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Established:
    """Keys of epoch 0 are in place at both ends."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The tunnel is over: wipe all keys, cut all flows."""

    code: str
    reason: str


Effect = (
    Send
    | VerifySession
    | Configure
    | PeerIndexes
    | InstallReceive
    | InstallTransmit
    | RetireReceive
    | Established
    | Closed
)
Effects = list[Effect]


@dataclass(frozen=True, slots=True)
class Identities:
    """Who talks to whom: our signing key and the peer's raw public key, proven by its certificate in T3."""

    suite: Suite
    provider: Provider
    own: SigningKey
    peer_public_key: bytes
    exporter: bytes = field(repr=False)


class Tunnel:
    """What both ends share. Use `EndpointTunnel` or `GatewayTunnel`."""

    _send_direction: Direction
    _receive_direction: Direction
    _moves: Mapping[tuple[State, type[Message]], str]

    def __init__(self, identities: Identities, session: str, state: State, now: float) -> None:
        self._id = identities
        self.session = session
        self.state = state
        self.epoch_secret: EpochSecret | None = None
        self.epoch_began = now
        self._vnis: frozenset[int] = frozenset()
        self._deadlines: dict[str, float] = {"handshake": now + HANDSHAKE_WAIT_S}
        self._retiring: list[tuple[float, int]] = []
        self._messages_left, self._counted_at = float(CONTROL_MESSAGES_BURST), now

    def receive(self, message: Message, now: float) -> Effects:
        """One message from the peer. A message that is illegal in this state closes the tunnel, and so does one more than
        the rate of control messages allows: each may cost an answer, a signature or a new epoch."""
        if self.state is State.CLOSED:
            return []
        if isinstance(message, Close):
            return self._closed(message.code, message.reason)
        if not self._within_rate(now):
            return self.close("flooding", f"more than {CONTROL_MESSAGES_PER_S} control messages a second")
        if type(message) is Ping:
            return [Send(Pong(message.token))]
        if isinstance(message, Pong):
            return []
        move = self._moves.get((self.state, type(message)))
        if move is None:
            return self.close("unexpected-message", f"{type(message).__name__} in state {self.state.name}")
        handler: Callable[[Message, float], Effects] = getattr(self, move)
        try:
            return handler(message, now)
        except Refused as refusal:
            return self.close(refusal.code, str(refusal))

    def close(self, code: str, reason: str) -> Effects:
        """Ends the tunnel from this side and tells the peer."""
        if self.state is State.CLOSED:
            return []
        return [Send(Close(code, reason)), *self._closed(code, reason)]

    def session_expires(self, at: float) -> None:
        """T7: the session token's end, by our own clock. Called again at each renewal."""
        self._deadlines["session"] = at

    def next_deadline(self) -> tuple[float, str] | None:
        """When `tick` must be called next, and why."""
        due = [(when, why) for why, when in self._deadlines.items()]
        due += [(when, "retire") for when, _ in self._retiring]
        return min(due, default=None)

    def tick(self, now: float) -> Effects:
        """Acts on every deadline that has passed."""
        if self.state is State.CLOSED:
            return []
        if now >= self._deadlines.get("handshake", now + 1):
            return self.close("handshake-timeout", f"the peer was silent in state {self.state.name}")
        if now >= self._deadlines.get("session", now + 1):
            return self.close("session-expired", "the session token has ended")
        effects: Effects = [RetireReceive(epoch) for when, epoch in self._retiring if when <= now]
        self._retiring = [(when, epoch) for when, epoch in self._retiring if when > now]
        if now >= self._deadlines.get("rekey", now + 1):
            effects += self.rekey(now)
        return effects

    def rekey(self, now: float) -> Effects:
        """Gateway: starts the next epoch. The endpoint only answers."""
        raise IllegalMove("only a gateway starts a rekey")

    def _within_rate(self, now: float) -> bool:
        """Counts one message. A bucket of CONTROL_MESSAGES_BURST that CONTROL_MESSAGES_PER_S fill again."""
        refilled = self._messages_left + (now - self._counted_at) * CONTROL_MESSAGES_PER_S
        self._messages_left, self._counted_at = min(refilled, CONTROL_MESSAGES_BURST) - 1, now
        return self._messages_left >= 0

    def _closed(self, code: str, reason: str) -> Effects:
        self.state = State.CLOSED
        self.epoch_secret = None
        self._deadlines.clear()
        self._retiring.clear()
        return [Closed(code, reason)]

    def _require(self, *states: State) -> None:
        if self.state not in states:
            raise IllegalMove(f"not in state {self.state.name}")

    def _established(self, now: float) -> Effects:
        self.state = State.ESTABLISHED
        self._deadlines.pop("handshake", None)
        return [Established()]

    def _verify(self, message: bytes, signature: bytes, context: bytes) -> None:
        if not self._id.provider.verify(self._id.suite, self._id.peer_public_key, message, signature, context):
            raise Refused("bad-signature", "the peer's signature over the key exchange does not verify")

    def _advance(self, secret: EpochSecret, now: float) -> None:
        if self.epoch_secret is not None:
            self._retiring.append((now + OLD_EPOCH_KEPT_S, self.epoch_secret.epoch))
        self.epoch_secret = secret
        self.epoch_began = now

    def _derive(self, epoch: int, kem_secret: bytes, transcript_digest: bytes) -> EpochSecret:
        if self.epoch_secret is None:
            return schedule.first_epoch(self._id.exporter, kem_secret, transcript_digest)
        secret = schedule.next_epoch(self.epoch_secret, kem_secret, transcript_digest)
        if secret.epoch != epoch:
            raise Refused("wrong-epoch", f"epoch {epoch} offered, {secret.epoch} is next")
        return secret

    def _receive_keys(self, secret: EpochSecret) -> InstallReceive:
        keys = {vni: secret.vni_key(vni, self._receive_direction) for vni in self._vnis}
        return InstallReceive(secret.epoch, keys)

    def _transmit_keys(self, secret: EpochSecret) -> InstallTransmit:
        keys = {vni: secret.vni_key(vni, self._send_direction) for vni in self._vnis}
        return InstallTransmit(secret.epoch, keys)


class EndpointTunnel(Tunnel):
    """The agent's end. Its first message, Hello, comes from `start`."""

    _send_direction = Direction.TO_GATEWAY
    _receive_direction = Direction.TO_ENDPOINT
    _moves = {
        (State.GREETED, KemOffer): "_answer_first",
        (State.ANSWERED, Config): "_configure",
        (State.CONFIRMED, Ready): "_first_ready",
        (State.ESTABLISHED, Config): "_configure",
        (State.ESTABLISHED, KemOffer): "_answer_rekey",
        (State.ESTABLISHED, Ready): "_switch",
    }

    def __init__(self, identities: Identities, session: str, now: float) -> None:
        super().__init__(identities, session, State.GREETED, now)
        self._next_secret: EpochSecret | None = None
        self._revision = 0

    def start(self, version: str) -> Effects:
        """T3 is done: say which session this is."""
        return [Send(Hello(self.session, self._id.provider.name, version))]

    def confirm(self, revision: int, indexes: Mapping[int, int], now: float) -> Effects:
        """The driver set up the VNIs of that Config; `indexes` are ours, by VNI."""
        self._require(State.ANSWERED, State.ESTABLISHED)
        effects: Effects = [Send(Confirm(revision, tuple(sorted(indexes.items()))))]
        self._vnis = frozenset(indexes)
        if self.state is State.ANSWERED:
            self.state = State.CONFIRMED
        return effects

    def _answer_first(self, offer: KemOffer, now: float) -> Effects:
        if offer.epoch != 0:
            raise Refused("wrong-epoch", f"epoch {offer.epoch} offered, 0 is first")
        secret, answer = self._encapsulate(offer)
        self._advance(secret, now)
        self.state = State.ANSWERED
        return [Send(answer)]

    def _answer_rekey(self, offer: KemOffer, now: float) -> Effects:
        secret, answer = self._encapsulate(offer)
        self._next_secret = secret
        return [self._receive_keys(secret), Send(answer)]  # receive keys first: the gateway may use them at once

    def _encapsulate(self, offer: KemOffer) -> tuple[EpochSecret, KemAnswer]:
        offered = transcript.tunnel(self._id.exporter, self.session, offer.epoch, offer.public_key)
        self._verify(offered, offer.signature, labels.TUNNEL_OFFER)
        ciphertext, kem_secret = self._id.provider.encapsulate(self._id.suite, offer.public_key)
        answered = transcript.tunnel(self._id.exporter, self.session, offer.epoch, offer.public_key, ciphertext)
        secret = self._derive(offer.epoch, kem_secret, answered)
        return secret, KemAnswer(offer.epoch, ciphertext, self._id.own.sign(answered, labels.TUNNEL_ANSWER))

    def _configure(self, config: Config, now: float) -> Effects:
        return [Configure(config)]

    def _first_ready(self, ready: Ready, now: float) -> Effects:
        if self.epoch_secret is None or ready.epoch != 0:
            raise Refused("wrong-epoch", f"ready for epoch {ready.epoch}, 0 is first")
        secret = self.epoch_secret
        return [self._receive_keys(secret), self._transmit_keys(secret), *self._established(now)]

    def _switch(self, ready: Ready, now: float) -> Effects:
        if self._next_secret is None or ready.epoch != self._next_secret.epoch:
            raise Refused("wrong-epoch", f"ready for epoch {ready.epoch}, which was not exchanged")
        secret, self._next_secret = self._next_secret, None
        self._advance(secret, now)
        return [self._transmit_keys(secret)]


class GatewayTunnel(Tunnel):
    """The gateway's end of one endpoint."""

    _send_direction = Direction.TO_ENDPOINT
    _receive_direction = Direction.TO_GATEWAY
    _moves = {
        (State.WAITING, Hello): "_greet",
        (State.OFFERED, KemAnswer): "_first_answer",
        (State.CONFIGURED, Confirm): "_first_confirm",
        (State.ESTABLISHED, Confirm): "_reconfirm",
        (State.ESTABLISHED, KemAnswer): "_rekey_answer",
    }

    def __init__(self, identities: Identities, now: float, rekey_after_s: float = REKEY_AFTER_S) -> None:
        super().__init__(identities, "", State.WAITING, now)
        self.hello: Hello | None = None
        self._rekey_after_s = rekey_after_s
        self._config: Config | None = None
        self._unconfirmed: list[int] = []  # revisions of the Configs that the endpoint has yet to answer, oldest first
        self._offer: tuple[int, DecapsulationKey] | None = None
        self._rekey_wanted = False

    def accept(self, config: Config, expires_at: float, now: float) -> Effects:
        """The session is good: answer to VerifySession. The config is sent once keys are agreed."""
        self._require(State.VERIFYING)
        self._config = config
        self.session_expires(expires_at)
        self.state = State.OFFERED
        return self._offer_epoch(0)

    def reconfigure(self, config: Config, now: float) -> Effects:
        """T5 again, in a live tunnel: VNIs joined or left. Takes effect with the epoch it starts."""
        self._require(State.ESTABLISHED)
        self._config = config
        return self._send_config(config)

    def _send_config(self, config: Config) -> Effects:
        self._unconfirmed.append(config.revision)
        return [Send(config)]

    def rekey(self, now: float) -> Effects:
        """Starts the next epoch, unless one is being exchanged: then another follows it."""
        self._require(State.ESTABLISHED)
        self._deadlines.pop("rekey", None)
        if self._offer is not None or self.epoch_secret is None:
            self._rekey_wanted = True
            return []
        self._deadlines["handshake"] = now + HANDSHAKE_WAIT_S
        return self._offer_epoch(self.epoch_secret.epoch + 1)

    def _greet(self, hello: Hello, now: float) -> Effects:
        self.hello = hello
        self.session = hello.session
        self.state = State.VERIFYING
        return [VerifySession(hello.session)]

    def _offer_epoch(self, epoch: int) -> Effects:
        key = self._id.provider.generate_kem_key(self._id.suite)
        self._offer = (epoch, key)
        offered = transcript.tunnel(self._id.exporter, self.session, epoch, key.public_key)
        return [Send(KemOffer(epoch, key.public_key, self._id.own.sign(offered, labels.TUNNEL_OFFER)))]

    def _decapsulate(self, answer: KemAnswer) -> EpochSecret:
        if self._offer is None or answer.epoch != self._offer[0]:
            raise Refused("wrong-epoch", f"answer for epoch {answer.epoch}, which was not offered")
        (epoch, key), self._offer = self._offer, None
        answered = transcript.tunnel(self._id.exporter, self.session, epoch, key.public_key, answer.ciphertext)
        self._verify(answered, answer.signature, labels.TUNNEL_ANSWER)
        return self._derive(epoch, key.decapsulate(answer.ciphertext), answered)

    def _first_answer(self, answer: KemAnswer, now: float) -> Effects:
        self._advance(self._decapsulate(answer), now)
        if self._config is None:
            raise IllegalMove("offered without a config")
        self.state = State.CONFIGURED
        return self._send_config(self._config)

    def _first_confirm(self, confirm: Confirm, now: float) -> Effects:
        if self.epoch_secret is None:
            raise IllegalMove("configured without a secret")
        indexes = self._accepted_indexes(self._confirmed(confirm), confirm)
        secret = self.epoch_secret
        self._deadlines["rekey"] = now + self._rekey_after_s
        return [
            PeerIndexes(indexes),
            self._receive_keys(secret),
            self._transmit_keys(secret),
            Send(Ready(secret.epoch)),
            *self._established(now),
        ]

    def _reconfirm(self, confirm: Confirm, now: float) -> Effects:
        config = self._confirmed(confirm)
        if self._unconfirmed:
            return []  # a newer Config is on its way to the endpoint, and the Confirm of that one counts
        return [PeerIndexes(self._accepted_indexes(config, confirm)), *self.rekey(now)]

    def _confirmed(self, confirm: Confirm) -> Config:
        """Each Config is confirmed once, by a Confirm of its own or of a later one; so a Confirm cannot force a rekey."""
        if self._config is None or confirm.revision not in self._unconfirmed:
            raise Refused("wrong-revision", f"confirms revision {confirm.revision}, which waits for no Confirm")
        del self._unconfirmed[: self._unconfirmed.index(confirm.revision) + 1]
        return self._config

    def _accepted_indexes(self, config: Config, confirm: Confirm) -> dict[int, int]:
        indexes = dict(confirm.indexes)
        if set(indexes) - {vni.vni for vni in config.vnis}:
            raise Refused("wrong-vni", "confirms a VNI that was not configured")
        self._vnis = frozenset(indexes)
        return indexes

    def _rekey_answer(self, answer: KemAnswer, now: float) -> Effects:
        secret = self._decapsulate(answer)
        self._advance(secret, now)
        self._deadlines.pop("handshake", None)
        self._deadlines["rekey"] = now if self._rekey_wanted else now + self._rekey_after_s
        self._rekey_wanted = False
        return [self._receive_keys(secret), self._transmit_keys(secret), Send(Ready(secret.epoch))]
