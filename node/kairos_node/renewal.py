"""A node's certificate and key stay fresh: renewal at 2/3 of the certificate's life, rotation on demand (§4)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from kairos.api.enrollment import Certificate, FabricInfo, RenewRequest
from kairos.api.problem import ProblemError
from kairos.constants import CERTIFICATE_RENEW_AT
from kairos.crypto import labels
from kairos.crypto.provider import Provider, SigningKey
from kairos.errors import KairosError
from kairos.identity import transcript
from kairos_node.backoff import Backoff
from kairos_node.enrollment import check_fabric_untrusted, check_own_certificate_untrusted
from kairos_node.fabric import FabricClient, Signer
from kairos_node.state import Identity, Keys, NodeState, new_seed

_log = logging.getLogger(__name__)
_FIRST_RETRY_S, _MOST_RETRY_S = 5.0, 600.0
_LONGEST_SLEEP_S = 3600.0  # the wall clock may be set while we sleep


def renew_at(identity: Identity) -> float:
    """Unix seconds at which the certificate is due."""
    certificate = identity.certificate
    return certificate.not_before + CERTIFICATE_RENEW_AT * (certificate.not_after - certificate.not_before)


class Renewal:
    """Keeps `identity` current. renewed: called with each new one, for TLS channels made from then on."""

    def __init__(
        self,
        client: FabricClient,
        state: NodeState,
        provider: Provider,
        identity: Identity,
        renewed: Callable[[Identity], None],
    ) -> None:
        self.identity = identity
        self._client, self._state, self._provider = client, state, provider
        self._renewed = renewed
        self._one_at_a_time = asyncio.Lock()
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. A fabric out of reach is no error here: the certificate has a third of its life left."""
        backoff = Backoff(_FIRST_RETRY_S, _MOST_RETRY_S)
        wait = 0.0 if self._rotating() else self._due_in()
        while True:
            await self._pause(wait)
            try:
                if self._rotating() is not None or self._wanted.is_set():
                    await self.rotate()
                    self._wanted.clear()
                elif self._due_in() <= 0:
                    await self.renew()
                backoff.reset()
                wait = self._due_in()
            except (OSError, ProblemError, KairosError) as error:  # OSError: no connection, or no room for a new seed
                wait = backoff.next()
                _log.warning("the certificate was not renewed: %s; again in %.0f s", error, wait)

    def rotate_soon(self) -> None:
        """By `run`, which tries until it is done."""
        self._wanted.set()

    async def _pause(self, seconds: float) -> None:
        """Cut short by whoever wants a rotation, but not between two attempts at it."""
        if self._wanted.is_set():
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), seconds)

    async def renew(self) -> None:
        """A new certificate for the same key. Raises as FabricClient does, or Refused."""
        async with self._one_at_a_time:
            info = await self._client.info()
            answer = await self._client.renew(RenewRequest())
            self._take(info, answer, self.identity.key, self.identity.seed)
            _log.info("certificate renewed: serial %s", answer.serial)

    async def rotate(self) -> None:
        """A new key and its certificate. The new seed is on disk before the fabric hears of the key, so a crash at
        any moment leaves a key that the fabric knows."""
        async with self._one_at_a_time:
            info = await self._client.info()
            seed = self._rotating() or new_seed()
            old, key = self.identity.key, self._provider.signing_key(self.identity.suite, seed)
            self._state.keep_keys(Keys(self.identity.seed, self.identity.certificate.der, seed))
            answer = await self._certificate_for_new_key(old, key)
            self._take(info, answer, key, seed)
            _log.info("device key rotated: serial %s", answer.serial)

    async def _certificate_for_new_key(self, old: SigningKey, key: SigningKey) -> Certificate:
        node = self.identity.node
        proof = key.sign(transcript.rotation(node, old.public_key, key.public_key), labels.ROTATE_KEY)
        try:
            return await self._client.renew(RenewRequest(key.public_key, proof))
        except ProblemError as error:
            if error.code != "bad-signature":
                raise
        # An earlier run rotated and died before it heard so: the fabric knows only the new key now.
        self._client.signer = Signer(node, key)
        try:
            return await self._client.renew(RenewRequest())
        except (ProblemError, ConnectionError):
            self._client.signer = Signer(node, old)
            raise

    def _take(self, info: FabricInfo, answer: Certificate, key: SigningKey, seed: bytes) -> None:
        """Believes the answer under the issuer that the fabric has now: the operator may have certified a new one."""
        now, join = time.time(), self.identity.join
        trust = check_fabric_untrusted(self._provider, join, info, now)
        check_own_certificate_untrusted(
            self._provider, trust, join, self.identity.node, key.public_key, answer.certificate, now
        )
        self._state.keep_certificate(info, Keys(seed, answer.certificate))  # whose seed is on disk already
        self.identity = self._state.identity(self._provider, now)
        self._client.signer = Signer(self.identity.node, self.identity.key)
        self._renewed(self.identity)

    def _rotating(self) -> bytes | None:
        """The seed of a rotation that a crash interrupted."""
        keys = self._state.keys
        return keys.next_seed if keys is not None and keys.next_seed else None

    def _due_in(self) -> float:
        return min(_LONGEST_SLEEP_S, max(0.0, renew_at(self.identity) - time.time()))
