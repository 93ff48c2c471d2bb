"""Enrollments under way, in the SQLite of the tenant's object: one for each key that asks to join."""

from __future__ import annotations

from dataclasses import dataclass

from kairos.api.enrollment import EnrollmentStatus, Role

from ..ports import LocalDatabase, Row
from .columns import b64, unb64

_PUT = (
    "INSERT INTO enrollments (enrollment, node, role, token_id, public_key, name, verdict_for, policy_version, judged_at,"
    " to_be_signed, challenge_expires, answered, status, outcome, rule, reason, certificate, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
    " enrollment = excluded.enrollment, role = excluded.role, token_id = excluded.token_id, public_key = excluded.public_key,"
    " name = excluded.name, verdict_for = excluded.verdict_for, policy_version = excluded.policy_version,"
    " judged_at = excluded.judged_at, to_be_signed = excluded.to_be_signed, challenge_expires = excluded.challenge_expires,"
    " answered = excluded.answered, status = excluded.status, outcome = excluded.outcome, rule = excluded.rule,"
    " reason = excluded.reason, certificate = excluded.certificate, created_at = excluded.created_at"
)
_OTHERS = (
    "SELECT count(*) AS others FROM enrollments WHERE token_id = ? AND node <> ? AND"
    " (status = 'held' OR (status = 'challenged' AND challenge_expires >= ?))"
)
_KEPT_S = 86_400  # a device may collect its certificate that long, and the operator sees what was denied


@dataclass(frozen=True, slots=True)
class StoredEnrollment:
    """One enrollment."""

    enrollment: str
    """Its id: 128 random bits, in hex."""
    node: str
    """The id that the device has or will have."""
    role: Role
    """The role that it asks for."""
    token_id: str
    """The join token that it shows."""
    public_key: bytes
    """Raw ML-DSA."""
    name: str
    """The host name that was judged."""
    verdict_for: str
    """Digest of all that the verdict is for, in hex."""
    policy_version: int
    """The policy in force when it was judged; 0: none."""
    judged_at: int
    """Unix seconds."""
    to_be_signed: bytes
    """What the answer to the challenge must be a signature over."""
    challenge_expires: int
    """Unix seconds."""
    answered: bool
    """Whether the challenge was answered."""
    status: EnrollmentStatus
    """How far it has come."""
    outcome: str
    """The verdict: allow or hold."""
    rule: str
    """The id of the policy rule behind the verdict."""
    reason: str
    """Why it was decided so, for a person."""
    certificate: bytes
    """DER; empty before it is issued."""
    created_at: int
    """When it last asked, Unix seconds."""

    @property
    def waits(self) -> bool:
        """Whether the operator sees it among the devices."""
        return self.status in ("held", "denied")


class EnrollmentStore:
    """The enrollments of one tenant."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def one(self, enrollment: str) -> StoredEnrollment | None:
        rows = self._local.rows("SELECT * FROM enrollments WHERE enrollment = ?", enrollment)
        return _enrollment(rows[0]) if rows else None

    def of_node(self, node: str) -> StoredEnrollment | None:
        rows = self._local.rows("SELECT * FROM enrollments WHERE node = ?", node)
        return _enrollment(rows[0]) if rows else None

    def waiting(self, count: int) -> list[StoredEnrollment]:
        """Those that are held or were denied, the oldest first."""
        rows = self._local.rows(
            "SELECT * FROM enrollments WHERE status IN ('held', 'denied') ORDER BY created_at, node LIMIT ?", count
        )
        return [_enrollment(row) for row in rows]

    def others_with(self, token_id: str, node: str, now: int) -> int:
        """How many other nodes may still join by this token: held ones, and those that can still answer their
        challenge."""
        [row] = self._local.rows(_OTHERS, token_id, node, now)
        others: int = row["others"]
        return others

    # -- writes ------------------------------------------------------------------------------------------------------

    def put(self, enrollment: StoredEnrollment) -> None:
        """Replaces the node's earlier enrollment."""
        self._local.write(
            _PUT,
            enrollment.enrollment,
            enrollment.node,
            enrollment.role,
            enrollment.token_id,
            b64(enrollment.public_key),
            enrollment.name,
            enrollment.verdict_for,
            enrollment.policy_version,
            enrollment.judged_at,
            b64(enrollment.to_be_signed),
            enrollment.challenge_expires,
            int(enrollment.answered),
            enrollment.status,
            enrollment.outcome,
            enrollment.rule,
            enrollment.reason,
            b64(enrollment.certificate),
            enrollment.created_at,
        )

    def remove(self, node: str) -> None:
        self._local.write("DELETE FROM enrollments WHERE node = ?", node)

    def remove_unanswered(self, before: int) -> None:
        """Those whose challenge ended before this Unix time without an answer that let them in or had them held."""
        self._local.write("DELETE FROM enrollments WHERE status = 'challenged' AND challenge_expires < ?", before)

    def remove_ended(self, now: int) -> None:
        """Those that are not held and began more than a day ago."""
        self._local.write("DELETE FROM enrollments WHERE status <> 'held' AND created_at < ?", now - _KEPT_S)

    def clear(self) -> None:
        """Of the tenant."""
        self._local.write("DELETE FROM enrollments")


def _enrollment(row: Row) -> StoredEnrollment:
    return StoredEnrollment(
        row["enrollment"],
        row["node"],
        row["role"],
        row["token_id"],
        unb64(row["public_key"]),
        row["name"],
        row["verdict_for"],
        row["policy_version"],
        row["judged_at"],
        unb64(row["to_be_signed"]),
        row["challenge_expires"],
        bool(row["answered"]),
        row["status"],
        row["outcome"],
        row["rule"],
        row["reason"],
        unb64(row["certificate"]),
        row["created_at"],
    )
