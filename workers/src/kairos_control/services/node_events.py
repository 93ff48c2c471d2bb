"""The events socket of a node: its first message, and the messages that a node sends on it."""

from __future__ import annotations

from kairos.api.problem import ProblemError
from kairos.api.push import Receipt, Welcome, encode, parse_to_fabric_untrusted
from kairos.errors import BadMessage
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from .admission import Admission
from .audit_log import AuditLog
from .certificates import Certificates
from .event_sockets import EventSockets
from .isolations import Isolations
from .rate_limits import GATEWAY_MESSAGE, MESSAGE, Limits
from .sessions import Sessions


class NodeEvents:
    """Reads and writes the messages of the events sockets of one tenant's nodes."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        sessions: Sessions,
        isolations: Isolations,
        certificates: Certificates,
        admission: Admission,
        audit_log: AuditLog,
        event_sockets: EventSockets,
        limits: Limits,
    ) -> None:
        self._platform = platform
        self._store = store
        self._sessions = sessions
        self._isolations = isolations
        self._certificates = certificates
        self._admission = admission
        self._audit_log = audit_log
        self._event_sockets = event_sockets
        self._limits = limits

    async def welcome(self, node: str, shard: int | None = None) -> str:
        """The first message on a node's socket: the state that pushes change from then on. shard: which one asks for it; None: the
        socket is the object's own.

        What the object itself knows is read after the last await: an isolation, or the end of a session, that came between would
        be neither in the message nor pushed. The node may have been revoked since it was authenticated; an isolated one may keep its
        socket, on which it hears of its release.

        Raises a ProblemError: revoked, unavailable if the socket belongs elsewhere by now.
        """
        revision, mark = await self._store.network_changes.newest()
        policy_version = await self._store.policies.newest_version()
        refused = await self._certificates.seen_by(node)
        if self._sessions.is_revoked(node):
            raise problem("revoked", "ask your operator")
        if self._event_sockets.shard_of(node) != shard:
            raise problem("unavailable", "the tenant's events sockets were spread anew; connect again", 1)
        return encode(
            Welcome(
                revision,
                policy_version,
                int(self._platform.clock()),
                self._sessions.current() if is_gateway(node) else [],
                self._isolations.current(),
                self._audit_log.head,
                refused,
                mark,
            )
        )

    def received(self, node: str, text: str) -> bool:
        """Handles a message of a node. False: it is not a message that nodes send, or there are too many of them."""
        try:
            self._limits.take(GATEWAY_MESSAGE if is_gateway(node) else MESSAGE, node)
            message = parse_to_fabric_untrusted(text)
        except (BadMessage, ProblemError):
            return False
        if isinstance(message, Receipt):
            self._isolations.receipt(node, message)
        else:
            self._admission.answered(node, message)
        return True
