"""E1-E7, the fabric's side (docs/protocol.md §4).

What is in flight lives in the Tenant object's own SQLite; a device exists from the one D1 batch that counts the token's use, makes
the device and keeps its certificate. So a crash between any two steps leaves either nothing or all of it, and E1 again by the same
key goes on.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

import msgspec

from kairos.api.enrollment import Certificate, Challenge, ChallengeResponse, Enrollment, EnrollRequest, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateNotice
from kairos.constants import CHALLENGE_BYTES, CHALLENGE_LIFE_S
from kairos.crypto import labels
from kairos.identity import certificate, transcript
from kairos.identity.spiffe import node_id

from ..http.call import Call, Reply, reply
from ..ports import ConstraintError, Row, Statement, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.network_changes import change_of
from ..store.records import b64, device_of, refuse_isolated, strings, unb64
from ..store.vnis import StoredVni
from .admission import Admission
from .certificates import Certificates, issue, record_of
from .journal import Journal
from .leases import Leases
from .network_changes import NetworkChanges
from .postures import check_posture
from .pushes import Pushes
from .rate_limits import CERTIFICATE, TOKEN, Limits
from .signed_requests import SignedRequest, SignedRequests

NAME_MAX = 64


class Enrollments:
    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        leases: Leases,
        journal: Journal,
        pushes: Pushes,
        admission: Admission,
        limits: Limits,
        certificates: Certificates,
        signed_requests: SignedRequests,
        network: NetworkChanges,
    ) -> None:
        self._network = network
        self._signed_requests = signed_requests
        self._platform = platform
        self._store = store
        self._leases = leases
        self._limits = limits
        self._journal = journal
        self._pushes = pushes
        self._admission = admission
        self._certificates = certificates

    async def request(self, call: Call, signed: SignedRequest) -> Reply:
        """E1, E2, E3: who asks, may it, and can it prove its key?"""
        wanted = call.decode(EnrollRequest)
        fingerprint = transcript.fingerprint(wanted.public_key)
        node = node_id(wanted.role, wanted.public_key)
        token = await self._token(
            wanted, fingerprint
        )  # first: without one, every tenant looks like one that does not exist
        self._check_form(wanted)
        await self._signed_requests.check(signed, wanted.public_key)
        flight = self._in_flight(node, wanted.token_id)
        if flight is None:
            outcome, rule, reason = await self._judge(wanted, token, node)
            flight = self._in_flight(node, wanted.token_id)  # the same E1 may have come twice while the gateway thought
        if flight is not None:
            enrollment, outcome, rule, reason = (flight[key] for key in ("enrollment", "outcome", "rule", "reason"))
        else:
            enrollment = self._platform.entropy(16).hex()
            self._platform.local.write("DELETE FROM enrollments WHERE node = ?", node)  # denied, or by another token
        challenge = Challenge(
            enrollment, self._platform.entropy(CHALLENGE_BYTES), int(self._platform.clock()) + CHALLENGE_LIFE_S
        )
        body = msgspec.json.encode(challenge)
        self._platform.local.write(
            "INSERT INTO enrollments (enrollment, node, role, token_id, public_key, name, posture, request, challenge,"
            " challenge_expires, answered, status, outcome, rule, reason, certificate, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 'challenged', ?, ?, ?, '', ?)"
            " ON CONFLICT (node) DO UPDATE SET request = excluded.request, challenge = excluded.challenge,"
            " challenge_expires = excluded.challenge_expires, answered = 0, name = excluded.name, posture = excluded.posture",
            enrollment, node, wanted.role, wanted.token_id, b64(wanted.public_key), wanted.hostname,
            json.dumps(wanted.posture), b64(call.body), b64(body), challenge.expires_at, outcome, rule, reason,
            int(self._platform.clock()),
        )  # fmt: skip
        self._journal.record(
            "enrollment.challenged",
            actor=node,
            subject=wanted.hostname,
            outcome=outcome,
            rule=rule,
            enrollment=enrollment,
        )
        return Reply(201, body)

    async def respond(self, call: Call) -> Reply:
        """E4: the signature over both messages. Then E5 or E6."""
        flight = self._flight(call.parameters["enrollment"])
        answer = call.decode(ChallengeResponse)
        if flight["answered"]:
            raise problem("challenge-used", "ask for a new challenge: enroll again with the same key")
        if flight["challenge_expires"] < self._platform.clock():
            raise problem("challenge-expired", "ask for a new challenge: enroll again with the same key")
        signed = transcript.enrollment(unb64(flight["request"]), unb64(flight["challenge"]))
        key = unb64(flight["public_key"])
        if not await self._platform.signatures.verify(key, signed, answer.signature, labels.ENROLL_RESPONSE):
            raise problem("bad-signature", "the response does not verify over the request and the challenge")
        self._platform.local.write("UPDATE enrollments SET answered = 1 WHERE enrollment = ?", flight["enrollment"])
        if flight["status"] == "challenged" and flight["outcome"] == "hold":
            self._set_status(flight, "held")
            self._journal.record("enrollment.held", actor=flight["node"], subject=flight["name"], rule=flight["rule"])
        elif flight["status"] != "held":
            await self._issue(flight, actor=flight["node"])
        return reply(self._view(self._flight(flight["enrollment"])))

    async def show(self, call: Call) -> Reply:
        """E5, polled; E6 again for whom it did not reach."""
        return reply(self._view(self._flight(call.parameters["enrollment"])))

    def held(self) -> list[Row]:
        return self._platform.local.rows(
            "SELECT * FROM enrollments WHERE status IN ('held', 'denied') ORDER BY created_at"
        )

    async def approve(self, node: str, actor: str) -> None:
        """E5: the operator lets it in. Raises not-found when nothing of that name is held."""
        await self._issue(self._held(node), actor=actor)

    def deny(self, node: str, reason: str, actor: str) -> None:
        flight = self._held(node)
        self._platform.local.write(
            "UPDATE enrollments SET status = 'denied', rule = 'operator', reason = ? WHERE enrollment = ?",
            reason,
            flight["enrollment"],
        )
        self._journal.record("enrollment.denied", actor=actor, subject=node, outcome="deny", reason=reason)

    async def renew(self, call: Call) -> Reply:
        """Renewal by the current key, and with it rotation to a new one."""
        wanted = call.decode(RenewRequest)
        node, key = call.node.node, call.node.public_key
        self._limits.take(CERTIFICATE, node)
        if wanted.new_public_key:
            signed = transcript.rotation(node, key, wanted.new_public_key)
            if len(wanted.new_public_key) != self._platform.settings.suite.signature_public_key or not (
                await self._platform.signatures.verify(
                    wanted.new_public_key, signed, wanted.new_key_signature, labels.ROTATE_KEY
                )
            ):
                raise problem("bad-signature", "the new key did not sign its rotation")
            key = wanted.new_public_key
        issued = await issue(self._platform, self._platform.tenant, call.node.role, node, key)
        values = (b64(key), transcript.fingerprint(key).hex(), issued.serial, issued.not_after)
        update = "UPDATE devices SET public_key = ?, key_fingerprint = ?, serial = ?, not_after = ? WHERE tenant = ? AND node = ?"
        statements = [record_of(self._platform.tenant, node, issued), (update, (*values, self._platform.tenant, node))]
        change = change_of(members=[node])
        if wanted.new_public_key:
            statements += [self._certificates.replacement(node, issued), *self._network.revision(change)]
        try:
            await self._platform.database.write(statements)
        except ConstraintError:
            raise problem("exists", "another device of the tenant has or had this key; make a new one") from None
        kind = "certificate.rotated" if wanted.new_public_key else "certificate.renewed"
        self._journal.record(kind, actor=node, subject=issued.serial)
        self._pushes.to_gateways(CertificateNotice(node, issued.serial, issued.der))
        if wanted.new_public_key:  # members are known by their key: a mere renewal is no news to all the others
            await self._certificates.tell_of(node)
            await self._network.announce(change)
        return reply(Certificate(node, issued.serial, issued.der, issued.not_after))

    def _check_form(self, wanted: EnrollRequest) -> None:
        suite = self._platform.settings.suite
        if wanted.suite != suite.name:
            raise problem("wrong-suite", f"this fabric is {suite.name}")
        if len(wanted.public_key) != suite.signature_public_key:
            raise problem("invalid", f"a {suite.signature} public key has {suite.signature_public_key} bytes")
        check_posture(wanted.posture)
        if not 1 <= len(wanted.hostname) <= NAME_MAX or not wanted.hostname.isprintable():
            raise problem("invalid", f"hostname: 1 to {NAME_MAX} printable characters")

    async def _token(self, wanted: EnrollRequest, fingerprint: bytes) -> Row:
        """The token's row, if it lets this key in."""
        token = await self._platform.database.first("SELECT * FROM tokens WHERE token_id = ?", wanted.token_id)
        secret = transcript.fingerprint(wanted.token_secret)
        if token is None or not hmac.compare_digest(unb64(token["secret_hash"]), secret):
            raise unknown_token()
        self._limits.take(TOKEN, wanted.token_id)
        if token["tenant"] != self._platform.tenant:
            raise problem("wrong-tenant", "the join token belongs to another tenant")
        if token["role"] != wanted.role:
            raise problem("token-wrong-role", f"the join token is for a {token['role']}")
        device = await self._device_of_key(node_id(wanted.role, wanted.public_key), fingerprint)
        if device is not None and device["token_id"] == wanted.token_id:
            return token  # its use is counted: it may come back
        if token["expires_at"] < self._platform.clock():
            raise problem("token-expired", "ask your operator for a new join token")
        others = self._platform.local.rows(
            "SELECT node FROM enrollments WHERE token_id = ? AND node <> ? AND (status = 'held' OR"
            " (status = 'challenged' AND challenge_expires >= ?))",
            wanted.token_id, node_id(wanted.role, wanted.public_key), int(self._platform.clock()),
        )  # fmt: skip
        if token["used"] + len(others) >= token["uses"]:
            raise problem("token-used", "each device needs a token of its own, or one with more uses")
        return token

    async def _device_of_key(self, node: str, fingerprint: bytes) -> Row | None:
        """The device whose key this is. Raises revoked, and key-replaced for a key that a device had before its rotation: it
        has the device's id and must not get the device's certificate."""
        device = await self._platform.database.first(
            "SELECT * FROM devices WHERE tenant = ? AND (node = ? OR key_fingerprint = ?)",
            self._platform.tenant, node, fingerprint.hex(),
        )  # fmt: skip
        if device is not None and device["status"] == "revoked":
            raise problem("revoked", device["reason"] or "ask your operator")
        if device is not None and device["key_fingerprint"] != fingerprint.hex():
            raise problem("key-replaced", f"{node} rotated its key; make a new key to enroll again")
        return device

    async def _judge(self, wanted: EnrollRequest, token: Row, node: str) -> tuple[str, str, str]:
        if await device_of(self._platform.database, self._platform.tenant, node) is not None:
            return "allow", "admission:known", "it is enrolled already"
        judgement = await self._admission.judge(wanted.role, self._subject(wanted, token, node))
        return judgement.outcome, judgement.rule, judgement.reason

    def _subject(self, wanted: EnrollRequest, token: Row, node: str) -> dict[str, Any]:
        """The policy input of the admission point (policies/input.schema.json)."""
        tags, groups = strings(token["tags"]), strings(token["groups"])
        return {
            "point": "admission",
            "tenant": self._platform.tenant,
            "device": {
                "node": node, "name": wanted.hostname, "role": wanted.role, "tags": tags, "groups": groups, "owner": token["owner"],
            },
            "posture": wanted.posture,
            "token": {"id": token["token_id"], "vnis": strings(token["vnis"]), "uses": token["uses"], "used": token["used"]},
        }  # fmt: skip

    async def _issue(self, flight: Row, actor: str) -> None:
        """E6 and E7: all of the device in one batch, then the news."""
        platform, node = self._platform, flight["node"]
        refuse_isolated(platform.local, node)
        key = unb64(flight["public_key"])
        device = await self._device_of_key(node, transcript.fingerprint(key))
        issued = await issue(platform, platform.tenant, flight["role"], node, key)
        statements = [record_of(platform.tenant, node, issued)]
        vnis: list[StoredVni] = []
        if device is None:
            token = await self._token_of(flight)
            vnis = await self._first_vnis(flight, token)
            statements = await self._creation(flight, token, vnis, issued) + statements
        else:
            statements.append(
                (
                    "UPDATE devices SET serial = ?, not_after = ?, name = ? WHERE tenant = ? AND node = ?",
                    (issued.serial, issued.not_after, flight["name"], platform.tenant, node),
                )
            )
        change = change_of(
            leases=[(vni.vni, node) for vni in vnis], members=[node], gateways=flight["role"] == "gateway"
        )
        try:
            await platform.database.write([*statements, *self._network.revision(change)])
        except ConstraintError:
            raise problem("token-used", "another device was faster; ask your operator for a new join token") from None
        platform.local.write(
            "UPDATE enrollments SET status = 'issued', certificate = ?, reason = '' WHERE enrollment = ?",
            b64(issued.der),
            flight["enrollment"],
        )
        self._journal.record(
            "certificate.issued", actor=actor, subject=node, outcome="allow", rule=flight["rule"], serial=issued.serial
        )
        self._pushes.to_gateways(CertificateNotice(node, issued.serial, issued.der))
        await self._network.announce(change)

    async def _token_of(self, flight: Row) -> Row:
        token = await self._platform.database.first("SELECT * FROM tokens WHERE token_id = ?", flight["token_id"])
        if token is None:
            raise problem("token-unknown", "the join token was deleted meanwhile; ask your operator for a new one")
        return token

    async def _creation(
        self, flight: Row, token: Row, vnis: list[StoredVni], issued: certificate.Certificate
    ) -> list[Statement]:
        platform, node = self._platform, flight["node"]
        key = unb64(flight["public_key"])
        return [
            ("UPDATE tokens SET used = used + 1 WHERE token_id = ?", (token["token_id"],)),
            (
                "INSERT INTO devices (tenant, node, role, name, status, public_key, key_fingerprint, token_id, tags, groups,"
                " owner, serial, not_after, enrolled_at) VALUES (?, ?, ?, ?, 'active', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    platform.tenant, node, flight["role"], flight["name"], b64(key), transcript.fingerprint(key).hex(),
                    token["token_id"], token["tags"], token["groups"], token["owner"], issued.serial, issued.not_after,
                    int(platform.clock()),
                ),
            ),
            *await self._leases.give(vnis, [node]),
        ]  # fmt: skip

    async def _first_vnis(self, flight: Row, token: Row) -> list[StoredVni]:
        """Those that the token names and those whose selectors name the device; a gateway is in all."""
        if flight["role"] == "gateway":
            return await self._store.vnis.all()
        tags = [f"tag:{tag}" for tag in strings(token["tags"])]
        groups = [f"group:{group}" for group in strings(token["groups"])]
        return await self._store.vnis.joined_by(strings(token["vnis"]), [*tags, *groups])

    def _in_flight(self, node: str, token_id: str) -> Row | None:
        rows = self._platform.local.rows(
            "SELECT * FROM enrollments WHERE node = ? AND token_id = ? AND status <> 'denied'", node, token_id
        )
        return rows[0] if rows else None

    def _flight(self, enrollment: str) -> Row:
        rows = self._platform.local.rows("SELECT * FROM enrollments WHERE enrollment = ?", enrollment)
        if not rows:
            raise unknown_enrollment()
        return rows[0]

    def _held(self, node: str) -> Row:
        for row in self.held():
            if row["node"] == node and row["status"] == "held":
                return row
        raise problem("not-found", f"{node} is not held; `kairos device list` shows what is")

    def _set_status(self, flight: Row, status: str) -> None:
        self._platform.local.write(
            "UPDATE enrollments SET status = ? WHERE enrollment = ?", status, flight["enrollment"]
        )

    def _view(self, flight: Row) -> Enrollment:
        issued = flight["status"] == "issued"
        return Enrollment(
            flight["enrollment"],
            flight["status"],
            flight["reason"],
            flight["rule"],
            flight["node"] if issued else "",
            unb64(flight["certificate"]) if issued else b"",
        )


def unknown_token() -> ProblemError:
    return problem("token-unknown", "ask your operator for a new join token")


def unknown_enrollment() -> ProblemError:
    return problem("not-found", "no such enrollment; start again")
