"""E1-E7, the fabric's side (docs/protocol.md §4).

An enrollment that is under way is a row in the SQLite of the Tenant object. A single D1 batch counts the use of the
token, adds the device and stores its certificate, so a crash between any two steps leaves all of that or nothing. A
device that asks again with the same key continues its enrollment.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kairos.api.admin import TokenRecord
from kairos.api.bounds import NAME_MAX
from kairos.api.enrollment import Challenge, Enrollment, EnrollRequest
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateNotice
from kairos.constants import CHALLENGE_BYTES, CHALLENGE_LIFE_S
from kairos.crypto import labels
from kairos.identity import transcript
from kairos.identity.certificate import Certificate as IssuedCertificate
from kairos.identity.spiffe import node_id

from ..ports import ConstraintError, Statement, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.devices import StoredDevice
from ..store.enrollments import StoredEnrollment
from ..store.network_changes import change_of
from ..store.vnis import StoredVni
from .admission import Admission, Verdict
from .certificates import Certificates
from .journal import Journal
from .leases import Leases
from .network_changes import NetworkChanges
from .postures import check_posture
from .pushes import Pushes
from .rate_limits import ENROLLMENT, TOKEN, Limits
from .signed_requests import SignedRequest, SignedRequests
from .turn import Turn

VERDICT_LIFE_S = 300
"""A verdict is reused for the same request for this long."""
_ID_BYTES = 16
_KNOWN = Verdict("allow", "admission:known", "it is enrolled already")


@dataclass(frozen=True, slots=True)
class _Applicant:
    """Who asks, after the join token and the key were proven."""

    request: EnrollRequest
    token: TokenRecord
    device: StoredDevice | None
    """The enrolled device that has the key; None for a new one."""
    node: str
    """The id that it has or will have."""
    policy_version: int
    """The policy in force; 0: none."""

    @property
    def verdict_for(self) -> str:
        """A digest of all that an admission verdict is for, in hex."""
        parts = [
            self.node,
            transcript.fingerprint(self.request.public_key).hex(),
            self.token.token_id,
            self.request.hostname,
            self.request.posture,
            self.policy_version,
        ]
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


class Enrollments:
    """The enrollments of one tenant."""

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
        turn: Turn,
        network: NetworkChanges,
    ) -> None:
        self._network = network
        self._platform = platform
        self._store = store
        self._leases = leases
        self._journal = journal
        self._pushes = pushes
        self._admission = admission
        self._limits = limits
        self._certificates = certificates
        self._signed_requests = signed_requests
        self._turn = turn

    # -- E1 to E3 ----------------------------------------------------------------------------------------------------

    async def request(self, request: EnrollRequest, signed: SignedRequest) -> Challenge:
        """Authenticates the token and the key, gets a verdict, and returns the challenge.

        No answer reveals anything about the tenant before the token is proven, or about its devices before the key is.
        Raises a ProblemError.
        """
        token = await self._token(request)
        self._check_form(request)
        await self._signed_requests.check(signed, request.public_key)
        applicant = await self._applicant(request, token)
        self._check_uses(applicant)
        verdict, former = await self._verdict(applicant)
        if former is None and await self._store.tokens.one(token.token_id) is None:
            raise unknown_token()  # it was deleted, perhaps with its tenant, while a gateway judged
        return self._challenge(applicant, verdict, former, signed.body)

    def _challenge(
        self, applicant: _Applicant, verdict: Verdict, former: StoredEnrollment | None, body: bytes
    ) -> Challenge:
        """Records the enrollment. former: the one that had the same verdict; None: it was judged just now."""
        self._limits.take(ENROLLMENT, applicant.node)
        now, request = int(self._platform.clock()), applicant.request
        kept = self._store.enrollments.of_node(applicant.node)
        challenge = Challenge(
            kept.enrollment if kept is not None else self._platform.entropy(_ID_BYTES).hex(),
            self._platform.entropy(CHALLENGE_BYTES),
            now + CHALLENGE_LIFE_S,
        )
        self._store.enrollments.remove_unanswered(now)
        self._store.enrollments.put(
            StoredEnrollment(
                enrollment=challenge.enrollment,
                node=applicant.node,
                role=request.role,
                token_id=request.token_id,
                public_key=request.public_key,
                name=request.hostname,
                verdict_for=applicant.verdict_for,
                policy_version=applicant.policy_version,
                judged_at=former.judged_at if former is not None else now,
                to_be_signed=transcript.enrollment(body, msgspec.json.encode(challenge)),
                challenge_expires=challenge.expires_at,
                answered=False,
                status=former.status if former is not None else "challenged",
                outcome=verdict.outcome,
                rule=verdict.rule,
                reason=verdict.reason,
                certificate=former.certificate if former is not None else b"",
                created_at=now,
            )
        )
        self._journal.record(
            "enrollment.challenged",
            actor=applicant.node,
            subject=request.hostname,
            outcome=verdict.outcome,
            rule=verdict.rule,
            enrollment=challenge.enrollment,
        )
        return challenge

    async def _token(self, request: EnrollRequest) -> TokenRecord:
        """The token that the request names and whose secret it has. Raises token-unknown, wrong-tenant,
        token-wrong-role."""
        token = await self._store.tokens.of_any_tenant(request.token_id)
        shown = transcript.fingerprint(request.token_secret)
        if token is None or not hmac.compare_digest(token.secret_hash, shown):
            raise unknown_token()
        self._limits.take(TOKEN, request.token_id)
        if token.record.tenant != self._platform.tenant:
            raise problem("wrong-tenant", "the join token belongs to another tenant")
        if token.record.role != request.role:
            raise problem("token-wrong-role", f"the join token is for a {token.record.role}")
        return token.record

    def _check_form(self, request: EnrollRequest) -> None:
        suite = self._platform.settings.suite
        if request.suite != suite.name:
            raise problem("wrong-suite", f"this fabric is {suite.name}")
        if len(request.public_key) != suite.signature_public_key:
            raise problem("invalid", f"a {suite.signature} public key has {suite.signature_public_key} bytes")
        check_posture(request.posture)
        if not 1 <= len(request.hostname) <= NAME_MAX or not request.hostname.isprintable():
            raise problem("invalid", f"hostname: 1 to {NAME_MAX} printable characters")

    async def _applicant(self, request: EnrollRequest, token: TokenRecord) -> _Applicant:
        device = await self._device(request.role, request.public_key)
        node = node_id(request.role, request.public_key) if device is None else device.node
        version = await self._store.policies.newest_version()
        return _Applicant(request, token, device, node, version)

    async def _device(self, role: str, public_key: bytes) -> StoredDevice | None:
        """The device that has this key.

        Raises revoked, isolated, wrong-role, and key-replaced for a key that a device had before: it must not get that
        device's certificate, nor become another device.
        """
        device = await self._store.devices.of_key(public_key)
        if device is None:
            return None
        if not device.active:
            raise problem("revoked", device.reason or "ask your operator")
        if device.key_fingerprint != transcript.fingerprint(public_key):
            raise problem("key-replaced", f"{device.node} rotated its key; make a new key to enroll again")
        if device.role != role:
            raise problem("wrong-role", f"the key is that of {device.node}, a {device.role}; make a new one")
        self._store.isolations.refuse(device.node)
        return device

    def _check_uses(self, applicant: _Applicant) -> None:
        """Raises token-expired, token-used. A device whose use is counted may come back."""
        token, now = applicant.token, int(self._platform.clock())
        if applicant.device is not None and applicant.device.token_id == token.token_id:
            return
        if token.expires_at < now:
            raise problem("token-expired", "ask your operator for a new join token")
        if token.used + self._store.enrollments.others_with(token.token_id, applicant.node, now) >= token.uses:
            raise _used_up()

    async def _verdict(self, applicant: _Applicant) -> tuple[Verdict, StoredEnrollment | None]:
        """The verdict, and the enrollment that had it already; None if it was judged now."""
        former = self._store.enrollments.of_node(applicant.node)
        if former is not None and self._still_holds(former, applicant):
            return Verdict(former.outcome, former.rule, former.reason), former
        if applicant.device is not None and applicant.device.name == applicant.request.hostname:
            return _KNOWN, None
        return await self._admission.judge(applicant.request.role, self._subject(applicant)), None

    def _still_holds(self, former: StoredEnrollment, applicant: _Applicant) -> bool:
        """Whether nothing that was judged has changed, and it was judged a short time ago."""
        fresh = self._platform.clock() - former.judged_at < VERDICT_LIFE_S
        return fresh and former.status != "denied" and former.verdict_for == applicant.verdict_for

    def _subject(self, applicant: _Applicant) -> dict[str, Any]:
        """The policy input of the admission point (policies/input.schema.json)."""
        request, token = applicant.request, applicant.token
        return {
            "point": "admission",
            "tenant": self._platform.tenant,
            "device": {
                "node": applicant.node,
                "name": request.hostname,
                "role": request.role,
                "tags": token.tags,
                "groups": token.groups,
                "owner": token.owner,
            },
            "posture": request.posture,
            "token": {"id": token.token_id, "vnis": token.vnis, "uses": token.uses, "used": token.used},
        }

    # -- E4 to E6 ----------------------------------------------------------------------------------------------------

    async def respond(self, enrollment: str, signature: bytes) -> Enrollment:
        """E4: the signature over both messages. Then E5 or E6.

        The signature is verified before this waits for its turn. Raises a ProblemError.
        """
        asked = self._unanswered(enrollment)
        verify = self._platform.signatures.verify
        if not await verify(asked.public_key, asked.to_be_signed, signature, labels.ENROLL_RESPONSE):
            raise problem("bad-signature", "the response does not verify over the request and the challenge")
        async with self._turn:
            current = self._unanswered(enrollment)
            if current.to_be_signed != asked.to_be_signed:
                raise problem("challenge-used", "a newer challenge was asked for meanwhile; answer that one")
            current = self._keep(replace(current, answered=True))
            return _view(await self._answered(current))

    async def _answered(self, asked: StoredEnrollment) -> StoredEnrollment:
        """The enrollment after its challenge was answered."""
        if asked.status in ("held", "denied"):
            return asked
        if asked.outcome != "hold":
            if asked.policy_version != await self._store.policies.newest_version():
                raise problem("challenge-expired", "another policy is in force since: enroll again with the same key")
            return await self._issue(asked, actor=asked.node)
        self._journal.record("enrollment.held", actor=asked.node, subject=asked.name, rule=asked.rule)
        return self._keep(replace(asked, status="held"))

    def show(self, enrollment: str) -> Enrollment:
        """E5, polled; E6 again for a device that it did not reach. Raises not-found."""
        return _view(self._one(enrollment))

    async def approve(self, node: str, actor: str) -> None:
        """E5: the operator lets it in. Raises not-found when nothing of that name is held."""
        await self._issue(self._held(node), actor)

    def deny(self, node: str, reason: str, actor: str) -> None:
        """Raises not-found when nothing of that name is held."""
        self._keep(replace(self._held(node), status="denied", rule="operator", reason=reason))
        self._journal.record("enrollment.denied", actor=actor, subject=node, outcome="deny", reason=reason)

    async def _issue(self, asked: StoredEnrollment, actor: str) -> StoredEnrollment:
        """E6 and E7: writes the device in one batch, then announces it. The caller holds the turn."""
        self._store.isolations.refuse(asked.node)
        device = await self._device(asked.role, asked.public_key)
        if device is not None and device.node != asked.node:
            raise problem("exists", f"{device.node} has this key since; enroll again")
        issued = await self._certificates.issue(asked.role, asked.node, asked.public_key)
        vnis: list[StoredVni] = []
        if device is None:
            token = await self._unspent(asked.token_id)
            vnis = await self._vnis_of(token)
            statements = await self._creation(asked, token, vnis, issued)
        else:
            statements = await self._return(asked, device, issued.serial, issued.not_after)
        change = change_of(
            leases=[(vni.vni, asked.node) for vni in vnis], members=[asked.node], gateways=asked.role == "gateway"
        )
        added = self._store.certificates.add(issued)
        try:
            await self._journal.write(
                [*statements, *added, *self._network.revision(change)],
                "certificate.issued",
                actor=actor,
                subject=asked.node,
                outcome="allow",
                rule=asked.rule,
                serial=issued.serial,
            )
        except ConstraintError:
            raise _used_up() from None
        asked = self._keep(replace(asked, status="issued", certificate=issued.der, reason=""))
        self._pushes.to_gateways(CertificateNotice(asked.node, issued.serial, issued.der))
        await self._network.announce(change)
        return asked

    async def _creation(
        self, asked: StoredEnrollment, token: TokenRecord, vnis: list[StoredVni], issued: IssuedCertificate
    ) -> list[Statement]:
        """A new device, with one address of each prefix of its VNIs."""
        platform = self._platform
        device = StoredDevice(
            platform.tenant,
            asked.node,
            asked.role,
            asked.name,
            "active",
            asked.public_key,
            transcript.fingerprint(asked.public_key),
            token.token_id,
            token.tags,
            token.groups,
            token.owner,
            issued.serial,
            issued.not_after,
            int(platform.clock()),
            "",
        )
        statements = [self._store.tokens.use(token.token_id), self._store.devices.add(device)]
        return [*statements, *await self._leases.give(vnis, [asked.node])]

    async def _vnis_of(self, token: TokenRecord) -> list[StoredVni]:
        """The VNIs that the token names or that a selector puts its devices in; a gateway is in all."""
        if token.role == "gateway":
            return await self._store.vnis.all()
        selectors = [*(f"tag:{tag}" for tag in token.tags), *(f"group:{group}" for group in token.groups)]
        return await self._store.vnis.joined_by(token.vnis, selectors)

    async def _return(
        self, asked: StoredEnrollment, device: StoredDevice, serial: str, not_after: int
    ) -> list[Statement]:
        """A device that enrolls again. It keeps its addresses, tags and groups; another token than before is counted
        as used."""
        back = replace(device, name=asked.name, token_id=asked.token_id, serial=serial, not_after=not_after)
        statements = [self._store.devices.certify(back)]
        if asked.token_id != device.token_id:
            token = await self._unspent(asked.token_id)
            statements.append(self._store.tokens.use(token.token_id))
        return statements

    async def _unspent(self, token_id: str) -> TokenRecord:
        """Raises token-unknown, token-used."""
        token = await self._store.tokens.one(token_id)
        if token is None:
            raise problem("token-unknown", "the join token was deleted meanwhile; ask your operator for a new one")
        if token.used >= token.uses:
            raise _used_up()
        return token

    # -- looking up --------------------------------------------------------------------------------------------------

    def _one(self, enrollment: str) -> StoredEnrollment:
        found = self._store.enrollments.one(enrollment)
        if found is None:
            raise unknown_enrollment()
        return found

    def _unanswered(self, enrollment: str) -> StoredEnrollment:
        found = self._one(enrollment)
        if found.answered:
            raise problem("challenge-used", "ask for a new challenge: enroll again with the same key")
        if found.challenge_expires < self._platform.clock():
            raise problem("challenge-expired", "ask for a new challenge: enroll again with the same key")
        return found

    def _held(self, node: str) -> StoredEnrollment:
        found = self._store.enrollments.of_node(node)
        if found is None or found.status != "held":
            raise problem("not-found", f"{node} is not held; `kairos device list` shows what is")
        return found

    def _keep(self, enrollment: StoredEnrollment) -> StoredEnrollment:
        self._store.enrollments.put(enrollment)
        return enrollment


def _view(enrollment: StoredEnrollment) -> Enrollment:
    issued = enrollment.status == "issued"
    return Enrollment(
        enrollment.enrollment,
        enrollment.status,
        enrollment.reason,
        enrollment.rule,
        enrollment.node if issued else "",
        enrollment.certificate if issued else b"",
    )


def _used_up() -> ProblemError:
    return problem("token-used", "each device needs a token of its own, or one with more uses")


def unknown_token() -> ProblemError:
    """The refusal of a caller without a valid token. It is the same where the tenant does not exist."""
    return problem("token-unknown", "ask your operator for a new join token")


def unknown_enrollment() -> ProblemError:
    """The refusal of a caller that names no enrollment. It is the same where the tenant does not exist."""
    return problem("not-found", "no such enrollment; start again")
