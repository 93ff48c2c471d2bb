"""`kairos isolate` and `kairos release`: everywhere at once, with a signed receipt from every place that enforces it."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from kairos.api.admin import IsolationReceipt, IsolationRecord, Reason
from kairos.crypto import labels
from kairos.errors import KairosError
from kairos.identity import transcript
from kairos.identity.spiffe import is_gateway
from kairos_cli.admin import AdminClient, at
from kairos_cli.device import named
from kairos_cli.fabric.operator import Operator
from kairos_cli.output import as_json, as_table

_RELAY = "relay"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Point:
    """One place that must enforce it. after_ms: by its own clock, since the command; verdict: valid, missing or why not."""

    point: str
    verdict: str
    after_ms: int | None = None

    @property
    def good(self) -> bool:
        return self.verdict == "valid"


def isolate(options: argparse.Namespace) -> int:
    return _change(options, "isolate")


def release(options: argparse.Namespace) -> int:
    return _change(options, "release")


def _change(options: argparse.Namespace, verb: str) -> int:
    admin, tenant, node = named(options)
    began = time.time()
    record = admin.send("POST", at(tenant, "devices", node, verb), Reason(options.reason), IsolationRecord)
    record = _await_receipts(admin, tenant, record, began + options.wait)
    points = check(admin.operator, tenant, record, began)
    if options.json:
        as_json(_document(record, points))
    else:
        print(f"{record.node} is {record.state}: {record.reason}")
        rows = [(each.point, each.verdict, "" if each.after_ms is None else f"{each.after_ms} ms") for each in points]
        as_table(("POINT", "RECEIPT", "AFTER"), rows, "nobody has to enforce it: nothing is connected")
    return 0 if all(each.good for each in points) else 1


def check(operator: Operator, tenant: str, record: IsolationRecord, began: float) -> list[Point]:
    """Every expected point with what its receipt is worth: the fabric hands them over, it is not believed."""
    receipts = {receipt.point: receipt for receipt in record.receipts}
    points = []
    for point in [*record.expected, *sorted(set(receipts) - set(record.expected))]:
        receipt = receipts.get(point)
        if receipt is None:
            points.append(Point(point, "missing"))
        else:
            verdict = _verdict(operator, tenant, record, receipt)
            points.append(Point(point, verdict, receipt.at_ms - int(began * 1000)))
    return points


def _verdict(operator: Operator, tenant: str, record: IsolationRecord, receipt: IsolationReceipt) -> str:
    from kairos_node.crypto import provider_named

    provider = provider_named("cryptography")
    signed = transcript.isolation_receipt(record.id, record.node, receipt.point, record.state, receipt.at_ms)
    try:
        key = _key(provider, operator, tenant, record, receipt)
        good = provider.verify(operator.suite, key, signed, receipt.signature, labels.ISOLATION_RECEIPT)
    except KairosError as error:
        return str(error)
    return "valid" if good else "the signature is wrong"


def _key(provider: Any, operator: Operator, tenant: str, record: IsolationRecord, receipt: IsolationReceipt) -> bytes:
    """The public key of the point, proven by the root that this operator holds. Raises Refused or BadMessage.

    The relay's is that of an issuer which was valid at the time of the receipt. A node's present certificate may be of the issuer
    that the operator has, or of an earlier one.
    """
    from kairos_node.certificates import trust_untrusted, verify_peer_untrusted

    now, root = time.time(), operator.root_certificate
    relay = receipt.point == _RELAY
    trust = trust_untrusted(
        provider,
        operator.suite,
        operator.trust_domain,
        root,
        receipt.certificate if relay else operator.issuer_certificate,
        transcript.fingerprint(root),
        receipt.at_ms / 1000 if relay else now,
    )
    if relay:
        return trust.issuer.public_key
    role = "gateway" if is_gateway(receipt.point) else "endpoint"

    def proven(*issuer: bytes) -> bytes:
        chain = [receipt.certificate, *issuer]
        return verify_peer_untrusted(
            provider, trust, chain, tenant=tenant, role=role, now=now, node=receipt.point
        ).public_key

    for issuer in record.issuers:
        try:
            return proven(issuer)
        except KairosError:
            continue
    return proven()


def _await_receipts(admin: AdminClient, tenant: str, record: IsolationRecord, until: float) -> IsolationRecord:
    while set(record.expected) - {receipt.point for receipt in record.receipts} and time.time() < until:
        time.sleep(_POLL_S)
        record = admin.get(at(tenant, "devices", record.node, "isolation"), IsolationRecord)
    return record


def _document(record: IsolationRecord, points: list[Point]) -> dict[str, Any]:
    return {
        "id": record.id,
        "node": record.node,
        "state": record.state,
        "reason": record.reason,
        "points": [{"point": each.point, "receipt": each.verdict, "after_ms": each.after_ms} for each in points],
        "missing": [each.point for each in points if not each.good],
    }
