"""What endpoints claim of their flows, kept at the gateway until the flow itself is there, and as long as it is.

A claim comes in the datagram before the flow's first packet. One that is lost, or late, is none: nothing waits for it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection

from kairos.errors import BadMessage
from kairos.wire.claim import FlowClaim
from kairos_dataplane import ControlReceived, Flow

_log = logging.getLogger(__name__)
_WAITING_MAX = 4096  # of all endpoints; a claim waits for microseconds
_Key = tuple[object, ...]  # session and 5-tuple: an endpoint claims of its own flows alone


class FlowClaims:
    def __init__(self) -> None:
        self._waiting: OrderedDict[_Key, FlowClaim] = OrderedDict()
        self._of_flow: dict[int, FlowClaim] = {}

    def heard_untrusted(self, event: ControlReceived) -> None:
        """A CLAIM out of an endpoint's session. Nonsense is no claim."""
        try:
            claim = FlowClaim.parse_untrusted(event.payload)
        except BadMessage as error:
            _log.warning("a claim in session %d: %s", event.session, error)
            return
        self._waiting[event.session, claim.protocol, claim.src, claim.src_port, claim.dst, claim.dst_port] = claim
        if len(self._waiting) > _WAITING_MAX:
            self._waiting.popitem(last=False)

    def of(self, flow: Flow) -> FlowClaim | None:
        if self._waiting:
            key = (flow.session, flow.protocol, flow.src, flow.src_port, flow.dst, flow.dst_port)
            claim = self._waiting.pop(key, None)
            if claim is not None:
                self._of_flow[flow.id] = claim
        return self._of_flow.get(flow.id)

    def flows(self) -> Collection[int]:
        """Ids of those with a claim."""
        return self._of_flow.keys()

    def forget(self, flow: int) -> None:
        """It is over."""
        self._of_flow.pop(flow, None)

    def forget_waiting(self) -> None:
        """What has waited until now belongs to no flow."""
        self._waiting.clear()
