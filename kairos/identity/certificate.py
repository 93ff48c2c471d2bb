"""X.509 certificates of the fabric (RFC 5280, ML-DSA as in RFC 9881): building, signing and reading them.

The chain is always root -> issuer -> node. What is built here is signed by whoever has the key: the operator's command
for root and issuer, the Worker for nodes. Signing is left to the caller because in the Worker it is asynchronous.

Only this profile is read. A certificate that any other software would make is refused, whatever it is signed with:

    extension                   CA                              node
    basicConstraints, critical  cA, pathLen 1 (root), 0         not a CA
    keyUsage, critical          keyCertSign, cRLSign            digitalSignature
    extKeyUsage                 -                               serverAuth, clientAuth
    subjectAltName              -                               one URI, the SPIFFE id
    subjectKeyIdentifier        RFC 7093 §2 method 1            the same
    authorityKeyIdentifier      the issuer's                    the same

Each of them stands once at most. Another extension is ignored, as RFC 5280 wants it, unless it is critical.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kairos.crypto.suites import SUITES, Suite
from kairos.errors import BadMessage
from kairos.identity import der as asn1
from kairos.identity.spiffe import SpiffeId, parse_spiffe_untrusted

SERIAL_BYTES = 16
SERIAL_MAX = 20  # octets of the encoded integer (RFC 5280 §4.1.2.2)
CERTIFICATE_MAX = 16_384  # bytes of DER; an ML-DSA-87 certificate is about 7.5 kB

_COMMON_NAME = asn1.encode_oid("2.5.4.3")
_SUBJECT_KEY = asn1.encode_oid("2.5.29.14")
_KEY_USAGE = asn1.encode_oid("2.5.29.15")
_ALTERNATIVE_NAME = asn1.encode_oid("2.5.29.17")
_BASIC_CONSTRAINTS = asn1.encode_oid("2.5.29.19")
_AUTHORITY_KEY = asn1.encode_oid("2.5.29.35")
_EXTENDED_KEY_USAGE = asn1.encode_oid("2.5.29.37")

_VERSION, _EXTENSIONS = 0xA0, 0xA3  # tags [0] and [3], explicit
_KEY_IDENTIFIER, _URI = 0x80, 0x86  # tags [0] of AuthorityKeyIdentifier and [6] of GeneralName, implicit
_V3 = asn1.encode(_VERSION, asn1.encode_integer(2))
_TRUE = asn1.encode(asn1.BOOLEAN, b"\xff")
_CA_USAGE = asn1.encode(asn1.BIT_STRING, b"\x01\x06")  # keyCertSign, cRLSign
_NODE_USAGE = asn1.encode(asn1.BIT_STRING, b"\x07\x80")  # digitalSignature
_NOT_A_CA = asn1.encode(asn1.SEQUENCE)
_TLS_PURPOSES = asn1.encode(
    asn1.SEQUENCE, asn1.encode_oid("1.3.6.1.5.5.7.3.1"), asn1.encode_oid("1.3.6.1.5.5.7.3.2")
)  # serverAuth, clientAuth
_SUITES = {asn1.encode(asn1.SEQUENCE, asn1.encode_oid(each.signature_oid)): each for each in SUITES.values()}
_ALGORITHMS = {suite.name: algorithm for algorithm, suite in _SUITES.items()}  # no parameters: RFC 9881 §2

Extensions = dict[bytes, tuple[bool, bytes]]
"""By encoded OID: critical, value."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verifier looks at."""

    der: bytes
    tbs: bytes
    """What the signature is over."""
    suite: Suite
    serial: str
    """Hexadecimal, without leading zeros."""
    subject: str
    """The common name."""
    issuer: str
    """The common name of who signed it."""
    public_key: bytes
    """Raw ML-DSA, as in FIPS 204."""
    not_before: int
    """Unix seconds."""
    not_after: int
    """Unix seconds; the last at which it is valid."""
    path_length: int | None
    """How many CAs may stand between this CA and a node: 1 for a root, 0 for an issuer. None: a node's certificate."""
    spiffe: SpiffeId | None
    """None for a CA."""
    signature: bytes

    @property
    def is_ca(self) -> bool:
        return self.path_length is not None

    def valid_at(self, now: float) -> bool:
        return self.not_before <= now <= self.not_after


def ca_to_be_signed(
    suite: Suite, subject: str, public_key: bytes, issuer: str, issuer_key: bytes, serial: bytes,
    not_before: int, not_after: int, path_length: int,
) -> bytes:  # fmt: skip
    """A CA certificate to sign: path_length 1 for the root, 0 for an issuer. Names are common names."""
    extensions = _extension(_BASIC_CONSTRAINTS, _ca_constraints(path_length), critical=True)
    extensions += _extension(_KEY_USAGE, _CA_USAGE, critical=True)
    return _to_be_signed(suite, subject, public_key, issuer, issuer_key, serial, not_before, not_after, extensions)


def node_to_be_signed(
    suite: Suite, name: SpiffeId, public_key: bytes, issuer: Certificate, serial: bytes, not_before: int, not_after: int
) -> bytes:
    """A node's certificate to sign with the issuer's key: its only name is its SPIFFE id."""
    extensions = _extension(_BASIC_CONSTRAINTS, _NOT_A_CA, critical=True)
    extensions += _extension(_KEY_USAGE, _NODE_USAGE, critical=True)
    extensions += _extension(_EXTENDED_KEY_USAGE, _TLS_PURPOSES)
    extensions += _extension(_ALTERNATIVE_NAME, asn1.encode(asn1.SEQUENCE, asn1.encode(_URI, str(name).encode())))
    return _to_be_signed(
        suite, name.node, public_key, issuer.subject, issuer.public_key, serial, not_before, not_after, extensions
    )


def certificate(suite: Suite, tbs: bytes, signature: bytes) -> bytes:
    """The certificate in DER. signature: ML-DSA over `tbs` with the empty context (RFC 9881 §3)."""
    return asn1.encode(asn1.SEQUENCE, tbs, _ALGORITHMS[suite.name], _octets_as_bits(signature))


def _to_be_signed(
    suite: Suite, subject: str, public_key: bytes, issuer: str, issuer_key: bytes, serial: bytes,
    not_before: int, not_after: int, extensions: bytes,
) -> bytes:  # fmt: skip
    algorithm = _ALGORITHMS[suite.name]
    identifier = asn1.encode(asn1.OCTET_STRING, _key_identifier(public_key))
    authority = asn1.encode(asn1.SEQUENCE, asn1.encode(_KEY_IDENTIFIER, _key_identifier(issuer_key)))
    extensions += _extension(_SUBJECT_KEY, identifier) + _extension(_AUTHORITY_KEY, authority)
    return asn1.encode(
        asn1.SEQUENCE,
        _V3,
        asn1.encode_integer(int.from_bytes(serial, "big") >> 1),  # positive, RFC 5280 §4.1.2.2
        algorithm,
        _name(issuer),
        asn1.encode(asn1.SEQUENCE, asn1.encode_time(not_before), asn1.encode_time(not_after)),
        _name(subject),
        asn1.encode(asn1.SEQUENCE, algorithm, _octets_as_bits(public_key)),
        asn1.encode(_EXTENSIONS, asn1.encode(asn1.SEQUENCE, extensions)),
    )


def _extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """critical is not written where it is false, its default (X.690 §11.5)."""
    return asn1.encode(asn1.SEQUENCE, oid, _TRUE if critical else b"", asn1.encode(asn1.OCTET_STRING, value))


def _ca_constraints(path_length: int) -> bytes:
    return asn1.encode(asn1.SEQUENCE, _TRUE, asn1.encode_integer(path_length))


def _name(common_name: str) -> bytes:
    attribute = asn1.encode(asn1.SEQUENCE, _COMMON_NAME, asn1.encode(asn1.UTF8_STRING, common_name.encode()))
    return asn1.encode(asn1.SEQUENCE, asn1.encode(asn1.SET, attribute))


def _octets_as_bits(data: bytes) -> bytes:
    return asn1.encode(asn1.BIT_STRING, b"\0", data)


def _key_identifier(public_key: bytes) -> bytes:
    """RFC 7093 §2 method 1: the leftmost 160 bits of SHA-256."""
    return hashlib.sha256(public_key).digest()[:20]


# -- reading -----------------------------------------------------------------------------------------------------------


def parse_certificate_untrusted(der: bytes) -> Certificate:
    """Reads a certificate of the profile above; checks no signature and no time. Raises BadMessage for any other."""
    if len(der) > CERTIFICATE_MAX:
        raise BadMessage(f"a certificate of {len(der)} bytes")
    whole = asn1.Reader(der)
    outer = whole.inside(asn1.SEQUENCE)
    whole.end()
    tbs, algorithm, signature = outer.element(asn1.SEQUENCE), outer.element(asn1.SEQUENCE), outer.octets_of_bits()
    outer.end()

    body = asn1.Reader(tbs).inside(asn1.SEQUENCE)
    version, serial = body.element(_VERSION), body.element(asn1.INTEGER)
    _require(version == _V3, "its version is not 3")
    number = asn1.Reader(serial).integer()
    _require(number > 0 and len(serial) - 2 <= SERIAL_MAX, f"its serial is not positive, or over {SERIAL_MAX} octets")
    inner_algorithm, issuer = body.element(asn1.SEQUENCE), _read_name(body)
    validity = body.inside(asn1.SEQUENCE)
    not_before, not_after = validity.time(), validity.time()
    validity.end()
    subject, key = _read_name(body), body.inside(asn1.SEQUENCE)
    key_algorithm, public_key = key.element(asn1.SEQUENCE), key.octets_of_bits()
    key.end()
    extensions = _read_extensions(body)
    body.end()

    suite = _SUITES.get(algorithm)
    if suite is None or not algorithm == inner_algorithm == key_algorithm:
        raise BadMessage("a certificate whose algorithms are not those of one suite")
    _require(len(public_key) == suite.signature_public_key, "its key has the wrong size")
    _require(len(signature) == suite.signature_bytes, "its signature has the wrong size")
    _require(not_before <= not_after, "it ends before it begins")
    path_length, spiffe = _check_profile(extensions, subject, public_key)
    return Certificate(
        der,
        tbs,
        suite,
        f"{number:x}",
        subject,
        issuer,
        public_key,
        not_before,
        not_after,
        path_length,
        spiffe,
        signature,
    )


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise BadMessage(f"not a certificate of this fabric: {otherwise}")


def _read_name(body: asn1.Reader) -> str:
    name = body.inside(asn1.SEQUENCE)
    names = name.inside(asn1.SET)
    name.end()
    attribute = names.inside(asn1.SEQUENCE)
    names.end()
    _require(attribute.element(asn1.OID) == _COMMON_NAME, "a name in it is not a common name")
    text = attribute.text()
    attribute.end()
    _require(text != "", "a name in it is empty")
    return text


def _read_extensions(body: asn1.Reader) -> Extensions:
    explicit = body.inside(_EXTENSIONS)
    listed = explicit.inside(asn1.SEQUENCE)
    explicit.end()
    found: Extensions = {}
    while not listed.ended():
        extension = listed.inside(asn1.SEQUENCE)
        oid = extension.element(asn1.OID)
        critical = extension.next_is(asn1.BOOLEAN)
        _require(
            not critical or extension.element(asn1.BOOLEAN) == _TRUE,
            "an extension says in a wrong way if it is critical",
        )
        _require(oid not in found, f"extension {oid.hex()} stands twice")
        found[oid] = (critical, extension.value(asn1.OCTET_STRING))
        extension.end()
    return found


def _check_profile(extensions: Extensions, subject: str, public_key: bytes) -> tuple[int | None, SpiffeId | None]:
    """Path length and SPIFFE id, of which each certificate has exactly one. Takes what it knows out of `extensions`."""

    def take(oid: bytes, name: str, *, critical: bool = False) -> bytes:
        marked, value = extensions.pop(oid, (None, b""))
        _require(marked is critical, f"{name} is missing, or is critical where it should not be, or the reverse")
        return value

    constraints = take(_BASIC_CONSTRAINTS, "basicConstraints", critical=True)
    usage = take(_KEY_USAGE, "keyUsage", critical=True)
    identifier = asn1.encode(asn1.OCTET_STRING, _key_identifier(public_key))
    _require(
        take(_SUBJECT_KEY, "subjectKeyIdentifier") == identifier, "its subjectKeyIdentifier is not that of its key"
    )
    authority = asn1.Reader(take(_AUTHORITY_KEY, "authorityKeyIdentifier"))
    inside = authority.inside(asn1.SEQUENCE)
    _require(len(inside.value(_KEY_IDENTIFIER)) == 20, "its authorityKeyIdentifier has the wrong size")
    inside.end()
    authority.end()
    path_length, spiffe = None, None
    if constraints == _NOT_A_CA:
        _require(usage == _NODE_USAGE, "the keyUsage of a node is digitalSignature alone")
        purposes = take(_EXTENDED_KEY_USAGE, "extKeyUsage")
        _require(purposes == _TLS_PURPOSES, "the extKeyUsage of a node is serverAuth and clientAuth")
        spiffe = _read_spiffe(take(_ALTERNATIVE_NAME, "subjectAltName"))
        _require(subject == spiffe.node, "its subject is not the node that its SPIFFE id names")
    else:
        path_length = next((each for each in (0, 1) if constraints == _ca_constraints(each)), None)
        _require(path_length is not None, "its basicConstraints are not those of a root or an issuer")
        _require(usage == _CA_USAGE, "the keyUsage of a CA is keyCertSign and cRLSign")
        _require(
            not {_EXTENDED_KEY_USAGE, _ALTERNATIVE_NAME} & extensions.keys(), "it is a CA with a node's extensions"
        )
    _require(not any(critical for critical, _ in extensions.values()), "it has a critical extension that is unknown")
    return path_length, spiffe


def _read_spiffe(value: bytes) -> SpiffeId:
    outer = asn1.Reader(value)
    names = outer.inside(asn1.SEQUENCE)
    outer.end()
    uri = names.value(_URI)
    names.end()
    try:
        return parse_spiffe_untrusted(uri.decode("ascii"))
    except UnicodeDecodeError:
        raise BadMessage("not a certificate of this fabric: its name is not ASCII") from None
