"""The events socket of a node: its first message, and the messages that a node sends on it."""

from __future__ import annotations

from kairos.api.push import Receipt, Welcome, encode, parse_to_fabric_untrusted
from kairos.errors import BadMessage
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from .admission import Admission
from .audit_log import AuditLog
from .certificates import Certificates
from .isolations import Isolations
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
    ) -> None:
        self._platform = platform
        self._store = store
        self._sessions = sessions
        self._isolations = isolations
        self._certificates = certificates
        self._admission = admission
        self._audit_log = audit_log

    async def welcome(self, node: str) -> str:
        """The first message on a node's socket: the state that pushes change from then on."""
        revision, mark = await self._store.network_changes.newest()
        return encode(
            Welcome(
                revision,
                await self._store.policies.newest_version(),
                int(self._platform.clock()),
                self._sessions.current() if is_gateway(node) else [],
                self._isolations.current(),
                self._audit_log.head,
                await self._certificates.seen_by(node),
                mark,
            )
        )

    def check_welcome(self, node: str) -> None:
        """Checks once more before a socket is accepted, because the node may have been revoked since it was
        authenticated. An isolated node may keep its socket, on which it hears of its release. Raises revoked."""
        if self._sessions.is_revoked(node):
            raise problem("revoked", "ask your operator")

    def received(self, node: str, text: str) -> bool:
        """Handles a message of a node. False: it is not a message that nodes send."""
        try:
            message = parse_to_fabric_untrusted(text)
        except BadMessage:
            return False
        if isinstance(message, Receipt):
            self._isolations.receipt(node, message)
        else:
            self._admission.answered(node, message)
        return True
