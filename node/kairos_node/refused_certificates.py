"""Certificates that are not to be believed although they still hold: told by the fabric, kept on disk until they end."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kairos.api.push import CertificateRefusal
from kairos.constants import CLOCK_SKEW_S
from kairos_node.state import NodeState, RefusedCertificate


class RefusedCertificates:
    """By serial. A push tells how long the certificate is still good for, so the fabric's clock need not be ours."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._held = {each.serial: each for each in state.refused_certificates}

    def __contains__(self, serial: object) -> bool:
        return serial in self._held and self._held[str(serial)].refused_from <= time.time()

    def learn(self, pushes: Iterable[CertificateRefusal]) -> list[CertificateRefusal]:
        """On disk when this returns. Those that we did not know, or that are refused earlier than we knew."""
        now = time.time()
        news = [push for push in pushes if self._is_news(push, now)]
        if news:
            self._held = {serial: each for serial, each in self._held.items() if each.not_after + CLOCK_SKEW_S > now}
            self._held |= {
                push.serial: RefusedCertificate(push.serial, now + push.in_s, push.not_after) for push in news
            }
            self._state.keep_refused_certificates(list(self._held.values()))
        return news

    def _is_news(self, push: CertificateRefusal, now: float) -> bool:
        known = self._held.get(push.serial)
        return known is None or known.refused_from > now + push.in_s + 1  # seconds were rounded on the way
