"""X.509 certificates of the fabric (RFC 5280, ML-DSA as in RFC 9881): building, signing and reading them.

The chain is always root -> issuer -> node. What is built here is signed by whoever has the key: the operator's command
for root and issuer, the Worker for nodes. Signing is left to the caller because in the Worker it is asynchronous.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from asn1crypto import core, x509

from kairos.crypto.suites import SUITES, Suite
from kairos.errors import BadMessage
from kairos.identity.spiffe import SpiffeId, parse_spiffe_untrusted

SERIAL_BYTES = 16
CERTIFICATE_MAX = 16_384  # bytes of DER; an ML-DSA-87 certificate is about 7.5 kB


class _Algorithm(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields = [("algorithm", core.ObjectIdentifier)]  # parameters are absent for ML-DSA


class _PublicKey(core.Sequence):  # type: ignore[misc]
    _fields = [("algorithm", _Algorithm), ("public_key", core.OctetBitString)]


class _ToBeSigned(core.Sequence):  # type: ignore[misc]
    _fields = [
        ("version", x509.Version, {"explicit": 0, "default": "v1"}),
        ("serial_number", core.Integer),
        ("signature", _Algorithm),
        ("issuer", x509.Name),
        ("validity", x509.Validity),
        ("subject", x509.Name),
        ("subject_public_key_info", _PublicKey),
        ("extensions", x509.Extensions, {"explicit": 3}),
    ]


class _Certificate(core.Sequence):  # type: ignore[misc]
    _fields = [("tbs_certificate", _ToBeSigned), ("algorithm", _Algorithm), ("signature", core.OctetBitString)]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verifier looks at. Times are Unix seconds; serial is hex; public_key is raw ML-DSA; tbs is what the
    signature is over. spiffe: None for a CA."""

    der: bytes
    tbs: bytes
    suite: Suite
    serial: str
    subject: str
    issuer: str
    public_key: bytes
    not_before: int
    not_after: int
    is_ca: bool
    spiffe: SpiffeId | None
    signature: bytes

    def valid_at(self, now: float) -> bool:
        return self.not_before <= now <= self.not_after


def ca_to_be_signed(
    suite: Suite, subject: str, public_key: bytes, issuer: str, issuer_key: bytes, serial: bytes,
    not_before: int, not_after: int, path_length: int,
) -> bytes:  # fmt: skip
    """A CA certificate to sign: path_length 1 for the root, 0 for an issuer. Names are common names."""
    extensions = [
        {
            "extn_id": "basic_constraints",
            "critical": True,
            "extn_value": {"ca": True, "path_len_constraint": path_length},
        },
        {"extn_id": "key_usage", "critical": True, "extn_value": {"key_cert_sign", "crl_sign"}},
    ]
    return _to_be_signed(suite, subject, public_key, issuer, issuer_key, serial, not_before, not_after, extensions)


def node_to_be_signed(
    suite: Suite, name: SpiffeId, public_key: bytes, issuer: Certificate, serial: bytes, not_before: int, not_after: int
) -> bytes:
    """A node's certificate to sign with the issuer's key: its only name is its SPIFFE id."""
    extensions = [
        {"extn_id": "basic_constraints", "critical": True, "extn_value": {"ca": False}},
        {"extn_id": "key_usage", "critical": True, "extn_value": {"digital_signature"}},
        {"extn_id": "extended_key_usage", "critical": False, "extn_value": ["server_auth", "client_auth"]},
        {
            "extn_id": "subject_alt_name",
            "critical": False,
            "extn_value": [x509.GeneralName("uniform_resource_identifier", str(name))],
        },
    ]
    return _to_be_signed(
        suite, name.node, public_key, issuer.subject, issuer.public_key, serial, not_before, not_after, extensions
    )


def certificate(suite: Suite, tbs: bytes, signature: bytes) -> bytes:
    """The certificate in DER. signature: ML-DSA over `tbs` with the empty context (RFC 9881 §3)."""
    parts = {"tbs_certificate": _ToBeSigned.load(tbs), "algorithm": _algorithm(suite), "signature": signature}
    der: bytes = _Certificate(parts).dump()
    return der


def parse_certificate_untrusted(der: bytes) -> Certificate:
    """Reads a certificate of the shape above; checks no signature. Raises BadMessage for any other."""
    if len(der) > CERTIFICATE_MAX:
        raise BadMessage(f"a certificate of {len(der)} bytes")
    try:
        return _parse(der)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, IndexError, RecursionError) as error:
        raise BadMessage(f"not a certificate of this fabric: {error}".split("\n")[0]) from None


def _to_be_signed(
    suite: Suite, subject: str, public_key: bytes, issuer: str, issuer_key: bytes, serial: bytes,
    not_before: int, not_after: int, extensions: Sequence[dict[str, object]],
) -> bytes:  # fmt: skip
    identifiers = [
        {"extn_id": "key_identifier", "critical": False, "extn_value": _key_identifier(public_key)},
        {
            "extn_id": "authority_key_identifier",
            "critical": False,
            "extn_value": {"key_identifier": _key_identifier(issuer_key)},
        },
    ]
    tbs: bytes = _ToBeSigned(
        {
            "version": "v3",
            "serial_number": int.from_bytes(serial, "big") >> 1,  # positive, RFC 5280 §4.1.2.2
            "signature": _algorithm(suite),
            "issuer": x509.Name.build({"common_name": issuer}),
            "validity": {"not_before": _time(not_before), "not_after": _time(not_after)},
            "subject": x509.Name.build({"common_name": subject}),
            "subject_public_key_info": {"algorithm": _algorithm(suite), "public_key": public_key},
            "extensions": [*extensions, *identifiers],
        }
    ).dump()
    return tbs


def _algorithm(suite: Suite) -> dict[str, str]:
    return {"algorithm": suite.signature_oid}


def _time(unix: int) -> x509.Time:
    moment = datetime.fromtimestamp(unix, UTC)
    return x509.Time({"utc_time" if moment.year < 2050 else "general_time": moment})


def _key_identifier(public_key: bytes) -> bytes:
    """RFC 7093 §2 method 1: the leftmost 160 bits of SHA-256."""
    return hashlib.sha256(public_key).digest()[:20]


def _parse(der: bytes) -> Certificate:
    parsed = _Certificate.load(der, strict=True)
    tbs = parsed["tbs_certificate"]
    key = tbs["subject_public_key_info"]
    oids = {each["algorithm"].dotted for each in (parsed["algorithm"], tbs["signature"], key["algorithm"])}
    suite = next((suite for suite in SUITES.values() if {suite.signature_oid} == oids), None)
    if suite is None:
        raise ValueError("its algorithms are not those of one suite")
    values = {extension["extn_id"].native: extension["extn_value"] for extension in tbs["extensions"]}
    names = values["subject_alt_name"].parsed if "subject_alt_name" in values else []
    is_ca = bool(values["basic_constraints"].parsed["ca"].native)
    if not is_ca and len(names) != 1:
        raise ValueError("a node has exactly one name")
    public_key, signature = bytes(key["public_key"].native), bytes(parsed["signature"].native)
    if len(public_key) != suite.signature_public_key or len(signature) != suite.signature_bytes:
        raise ValueError("its key or signature has the wrong size")
    return Certificate(
        der=der,
        tbs=tbs.dump(),
        suite=suite,
        serial=f"{tbs['serial_number'].native:x}",
        subject=tbs["subject"].native["common_name"],
        issuer=tbs["issuer"].native["common_name"],
        public_key=public_key,
        not_before=int(tbs["validity"]["not_before"].native.timestamp()),
        not_after=int(tbs["validity"]["not_after"].native.timestamp()),
        is_ca=is_ca,
        spiffe=None if is_ca else parse_spiffe_untrusted(names[0].native),
        signature=signature,
    )
