"""Certificates: exactly one profile is written and read, in DER, and other people's parsers read the same in it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from asn1crypto import x509 as asn1crypto_x509
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from kairos.crypto.suites import KR1, KR5, SUITES, Suite
from kairos.errors import BadMessage
from kairos.identity import der as asn1
from kairos.identity.certificate import (
    CERTIFICATE_MAX,
    Certificate,
    ca_to_be_signed,
    certificate,
    node_to_be_signed,
    parse_certificate_untrusted,
)
from kairos.identity.spiffe import SpiffeId

SERIAL = bytes(range(16))
BEGINS, ENDS = 1_800_000_000, 1_800_086_400
NAME = SpiffeId("kairos.test", "acme", "endpoint", "ep-a")
# SHA-256 of issuer and node certificate below, as the first release of the protocol wrote them.
FROZEN = {
    "KR1": "f622c3175a9ac5db06f0c106380bd3f00282d7511c04e9a3e4104d4f14a4427d",
    "KR5": "bed8f26178270cbe49a1c044fac95cdd19980cab53ba4deebae3cc6e5a7b00e8",
}


def issuer_of(suite: Suite) -> Certificate:
    size = suite.signature_public_key
    tbs = ca_to_be_signed(
        suite, "kairos.test issuer", bytes(size), "kairos.test root", b"\1" * size, bytes(range(128, 144)),
        BEGINS, 4_000_000_000, 0,
    )  # fmt: skip
    return parse_certificate_untrusted(certificate(suite, tbs, bytes(suite.signature_bytes)))


def node_of(suite: Suite) -> bytes:
    key = b"\2" * suite.signature_public_key
    tbs = node_to_be_signed(suite, NAME, key, issuer_of(suite), SERIAL, BEGINS, ENDS)
    return certificate(suite, tbs, bytes(suite.signature_bytes))


ISSUER, NODE = issuer_of(KR1).der, node_of(KR1)
suites = st.sampled_from(list(SUITES.values()))
instants = st.integers(0, int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()))
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize("suite", [KR1, KR5], ids=lambda suite: suite.name)
def test_certificates_are_written_as_ever(suite: Suite) -> None:
    assert hashlib.sha256(issuer_of(suite).der + node_of(suite)).hexdigest() == FROZEN[suite.name]


# -- what is written is read, here and elsewhere -----------------------------------------------------------------------


@given(suites, names, names, st.binary(min_size=16, max_size=16), instants, instants, st.integers(0, 1))
@example(
    KR1, "root", "root", b"\xff" * 16, 2_524_607_999, 2_524_608_000, 1
)  # the last UTCTime, the first with 4 digits
def test_a_ca_is_read_as_it_was_written(
    suite: Suite, subject: str, issuer: str, serial: bytes, first: int, second: int, path_length: int
) -> None:
    begins, ends = sorted((first, second))
    key, other = (serial * 200)[: suite.signature_public_key], b"\7" * suite.signature_public_key
    number = int.from_bytes(serial, "big") >> 1
    tbs = ca_to_be_signed(suite, subject, key, issuer, other, serial, begins, ends, path_length)
    der = certificate(suite, tbs, bytes(suite.signature_bytes))
    if number == 0:
        with pytest.raises(BadMessage, match="serial"):
            parse_certificate_untrusted(der)
        return
    read = parse_certificate_untrusted(der)
    assert (read.suite, read.subject, read.issuer, read.public_key, read.serial, read.path_length, read.spiffe) == (
        suite, subject, issuer, key, f"{number:x}", path_length, None,
    )  # fmt: skip
    assert (read.not_before, read.not_after, read.tbs, read.der) == (begins, ends, tbs, der)
    check_elsewhere(read)


@given(suites, labels, labels, labels, st.sampled_from(["endpoint", "gateway"]), st.binary(min_size=16, max_size=16))
def test_a_node_is_read_as_it_was_written(
    suite: Suite, domain: str, tenant: str, node: str, role: str, serial: bytes
) -> None:
    name, key = SpiffeId(domain, tenant, role, node), (b"key" + serial) * 200
    tbs = node_to_be_signed(
        suite, name, key[: suite.signature_public_key], issuer_of(suite), b"\1" + serial, BEGINS, ENDS
    )
    read = parse_certificate_untrusted(certificate(suite, tbs, bytes(suite.signature_bytes)))
    assert (read.spiffe, read.subject, read.is_ca) == (name, node, False)
    check_elsewhere(read)


def check_elsewhere(ours: Certificate) -> None:
    """OpenSSL's and asn1crypto's parsers find the same in it."""
    theirs = x509.load_der_x509_certificate(ours.der)
    assert theirs.tbs_certificate_bytes == ours.tbs
    assert theirs.serial_number == int(ours.serial, 16)
    assert int(theirs.not_valid_before_utc.timestamp()) == ours.not_before
    assert int(theirs.not_valid_after_utc.timestamp()) == ours.not_after
    assert [each.value for each in theirs.subject] == [ours.subject]
    constraints = theirs.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True, ours.is_ca, ours.path_length,
    )  # fmt: skip
    usage = theirs.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (ours.is_ca, ours.is_ca, not ours.is_ca)
    if ours.spiffe is not None:
        alternative = theirs.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [each.value for each in alternative] == [str(ours.spiffe)]
    again: Any = asn1crypto_x509.Certificate.load(ours.der, strict=True)
    assert again["tbs_certificate"]["issuer"].native == {"common_name": ours.issuer}
    listed = {
        each["extn_id"].native: each["extn_value"].parsed.native for each in again["tbs_certificate"]["extensions"]
    }
    assert listed["key_identifier"] == hashlib.sha256(ours.public_key).digest()[:20]
    assert again["signature_value"].native == ours.signature


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("der", [ISSUER, NODE], ids=["issuer", "node"])
def test_whatever_byte_is_changed_only_one_writing_is_read(der: bytes) -> None:
    """A changed certificate is refused, or it is the one writing of what is read from it."""
    key_at, signature_at = der.index(parse_certificate_untrusted(der).public_key), len(der) - KR1.signature_bytes
    for at in (*range(key_at + 1), *range(key_at + KR1.signature_public_key, signature_at + 1)):
        for value in {der[at] ^ 1, der[at] ^ 0x80, 0x80, 0xFF, der[at] ^ 0x20} - {der[at]}:
            changed = der[:at] + bytes([value]) + der[at + 1 :]
            try:
                read = parse_certificate_untrusted(changed)
            except BadMessage:
                continue
            assert rewritten(read) == changed, at


def rewritten(read: Certificate) -> bytes:
    """The certificate with these fields; the identifier of the issuer's key is as it was."""
    serial = (int(read.serial, 16) << 1).to_bytes(len(read.serial) // 2 + 2, "big")
    if read.spiffe is None:
        assert read.path_length is not None
        tbs = ca_to_be_signed(
            read.suite, read.subject, read.public_key, read.issuer, b"\1" * read.suite.signature_public_key, serial,
            read.not_before, read.not_after, read.path_length,
        )  # fmt: skip
    else:
        issuer = issuer_of(read.suite)
        renamed = parse_certificate_untrusted(issuer.der.replace(b"kairos.test issuer", read.issuer.encode()))
        tbs = node_to_be_signed(
            read.suite, read.spiffe, read.public_key, renamed, serial, read.not_before, read.not_after
        )
    identifier = slice(-20, None)
    return certificate(read.suite, tbs[:-20] + read.tbs[identifier], read.signature)


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x30\x80\0\0")
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\xff" + b"\xff" * 127)
def test_any_bytes_are_a_bad_message_at_most(data: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_certificate_untrusted(data)
    with pytest.raises(BadMessage):
        parse_certificate_untrusted(NODE[: len(data) * 13] + data)


@given(st.lists(st.tuples(st.integers(0, len(NODE)), st.integers(0, 4), st.binary(max_size=6)), max_size=4))
def test_cut_and_pasted_bytes_are_a_bad_message_at_most(cuts: list[tuple[int, int, bytes]]) -> None:
    data = NODE
    for at, removed, put in cuts:
        data = data[:at] + put + data[at + removed :]
    try:
        parse_certificate_untrusted(data)
    except BadMessage:
        return


@pytest.mark.parametrize("bits", range(0, 60, 7))
def test_an_integer_has_one_writing(bits: int) -> None:
    for value in (1 << bits, (1 << bits) - 1, -(1 << bits), -(1 << bits) - 1):
        encoded = asn1.encode_integer(value)
        assert asn1.Reader(encoded).integer() == value
        padding = b"\xff" if value < 0 else b"\0"
        with pytest.raises(BadMessage, match="shortest"):
            asn1.Reader(asn1.encode(asn1.INTEGER, padding, encoded[2:])).integer()


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (asn1.UTC_TIME, "270115080000"),  # no zone
        (asn1.UTC_TIME, "2701150800Z"),  # no seconds
        (asn1.UTC_TIME, "270115080000+0000"),
        (asn1.UTC_TIME, "271315080000Z"),  # month 13
        (asn1.UTC_TIME, "270229080000Z"),  # 29 February of a common year
        (asn1.UTC_TIME, "270115240000Z"),
        (asn1.UTC_TIME, "270115080060Z"),
        (asn1.UTC_TIME, "27011508000\xb2Z"),
        (asn1.UTC_TIME, ""),
        (asn1.GENERALIZED_TIME, "20270115080000Z"),  # before 2050
        (asn1.GENERALIZED_TIME, "20510115080000.5Z"),
        (asn1.GENERALIZED_TIME, "20510115080000"),
        (asn1.GENERALIZED_TIME, "20510115080000z"),
        (asn1.GENERALIZED_TIME, "2051-01-15T0800Z"),
        (asn1.OCTET_STRING, "270115080000Z"),
    ],
)
def test_a_time_has_one_writing(tag: int, text: str) -> None:
    with pytest.raises(BadMessage):
        asn1.Reader(asn1.encode(tag, text.encode("latin-1"))).time()


OIDS = {
    "basic": "2.5.29.19", "usage": "2.5.29.15", "purposes": "2.5.29.37", "names": "2.5.29.17",
    "subject key": "2.5.29.14", "authority key": "2.5.29.35", "policies": "2.5.29.32", "private": "1.3.6.1.4.1.99999.1",
}  # fmt: skip
TRUE = b"\x01\x01\xff"


def extension(name: str, value: bytes, critical: bytes = b"") -> bytes:
    return asn1.encode(asn1.SEQUENCE, asn1.encode_oid(OIDS[name]), critical, asn1.encode(asn1.OCTET_STRING, value))


def listed(der: bytes) -> list[bytes]:
    """The extensions of a certificate, each in its own encoding."""
    body = asn1.Reader(parse_certificate_untrusted(der).tbs).inside(asn1.SEQUENCE)
    for tag in (0xA0, asn1.INTEGER, *[asn1.SEQUENCE] * 5):
        body.element(tag)
    reader, found = body.inside(0xA3).inside(asn1.SEQUENCE), []
    while not reader.ended():
        found.append(reader.element(asn1.SEQUENCE))
    return found


def with_extensions(der: bytes, extensions: list[bytes]) -> bytes:
    body = asn1.Reader(parse_certificate_untrusted(der).tbs).inside(asn1.SEQUENCE)
    kept = [body.element(tag) for tag in (0xA0, asn1.INTEGER, *[asn1.SEQUENCE] * 5)]
    put = asn1.encode(0xA3, asn1.encode(asn1.SEQUENCE, *extensions)) if extensions else b""
    return certificate(KR1, asn1.encode(asn1.SEQUENCE, *kept, put), bytes(KR1.signature_bytes))


def replaced(der: bytes, name: str, *puts: bytes) -> bytes:
    oid = asn1.encode_oid(OIDS[name])
    found = listed(der)
    at = next((index for index, each in enumerate(found) if oid in each), len(found))
    return with_extensions(der, [*found[:at], *puts, *found[at + 1 :]])


def uri(*names: str) -> bytes:
    return asn1.encode(asn1.SEQUENCE, *(asn1.encode(0x86, name.encode()) for name in names))


CA_TRUE = bytes.fromhex("30030101ff")
SERVER, CLIENT, ANY = (asn1.encode_oid(oid) for oid in ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0"))
WRONG_EXTENSIONS = {
    "unknown critical": (replaced(NODE, "private", extension("private", b"\5\0", TRUE)), "critical extension"),
    "known critical elsewhere": (replaced(NODE, "policies", extension("policies", b"0\0", TRUE)), "critical extension"),
    "critical written as false": (replaced(NODE, "private", extension("private", b"\5\0", b"\1\1\0")), "in a wrong way"),
    "critical written as 1": (replaced(NODE, "usage", extension("usage", b"\3\2\7\x80", b"\1\1\1")), "in a wrong way"),
    "twice": (with_extensions(NODE, [*listed(NODE), listed(NODE)[3]]), "stands twice"),
    "unknown twice": (replaced(NODE, "private", *[extension("private", b"\5\0")] * 2), "stands twice"),
    "none": (with_extensions(NODE, []), "no value of type 0xa3"),
    "no basicConstraints": (replaced(NODE, "basic"), "basicConstraints is missing"),
    "basicConstraints not critical": (replaced(NODE, "basic", extension("basic", b"0\0")), "basicConstraints is missing"),
    "cA written as false": (replaced(NODE, "basic", extension("basic", b"0\3\1\1\0", TRUE)), "basicConstraints"),
    "a node that is a CA": (replaced(NODE, "basic", extension("basic", CA_TRUE, TRUE)), "basicConstraints"),
    "a CA without pathLen": (replaced(ISSUER, "basic", extension("basic", CA_TRUE, TRUE)), "basicConstraints"),
    "pathLen 2": (replaced(ISSUER, "basic", extension("basic", bytes.fromhex("30060101ff020102"), TRUE)), "basicCons"),
    "pathLen -1": (replaced(ISSUER, "basic", extension("basic", bytes.fromhex("30060101ff0201ff"), TRUE)), "basicCons"),
    "no keyUsage": (replaced(NODE, "usage"), "keyUsage is missing"),
    "a node that may sign certificates": (replaced(NODE, "usage", extension("usage", b"\3\2\2\x84", TRUE)), "keyUsage"),
    "keyUsage with zero bits": (replaced(NODE, "usage", extension("usage", b"\3\2\0\x80", TRUE)), "keyUsage"),
    "a CA that may not sign": (replaced(ISSUER, "usage", extension("usage", b"\3\2\7\x80", TRUE)), "keyUsage"),
    "no extKeyUsage": (replaced(NODE, "purposes"), "extKeyUsage is missing"),
    "for servers only": (replaced(NODE, "purposes", extension("purposes", asn1.encode(0x30, SERVER))), "extKeyUsage"),
    "for anything": (replaced(NODE, "purposes", extension("purposes", asn1.encode(0x30, SERVER, CLIENT, ANY))), "extKey"),
    "no name": (replaced(NODE, "names"), "subjectAltName is missing"),
    "two names": (replaced(NODE, "names", extension("names", uri(str(NAME), str(NAME)))), "more than expected"),
    "an empty list of names": (replaced(NODE, "names", extension("names", b"0\0")), "no value of type"),
    "a DNS name": (replaced(NODE, "names", extension("names", b"\x30\3\x82\1a")), "no value of type"),
    "another URI": (replaced(NODE, "names", extension("names", uri("https://kairos.test"))), "SPIFFE"),
    "a name that is not ASCII": (replaced(NODE, "names", extension("names", uri("spiffe://\u00e9"))), "ASCII"),
    "another node's name": (replaced(NODE, "names", extension("names", uri(f"{NAME}b"))), "its subject is not"),
    "a CA with a name": (replaced(ISSUER, "names", extension("names", uri(str(NAME)))), "a node's extensions"),
    "no subjectKeyIdentifier": (replaced(NODE, "subject key"), "subjectKeyIdentifier is missing"),
    "another key's identifier": (replaced(NODE, "subject key", extension("subject key", b"\4\x14" + bytes(20))), "not that"),
    "no authorityKeyIdentifier": (replaced(NODE, "authority key"), "authorityKeyIdentifier is missing"),
    "a short authorityKeyIdentifier": (
        replaced(NODE, "authority key", extension("authority key", b"\x30\3\x80\1\1")), "the wrong size",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("der", "why"), WRONG_EXTENSIONS.values(), ids=WRONG_EXTENSIONS)
def test_wrong_extensions_are_refused(der: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        parse_certificate_untrusted(der)


def test_an_unknown_extension_that_is_not_critical_is_ignored() -> None:
    read = parse_certificate_untrusted(replaced(NODE, "private", extension("private", b"\5\0")))
    assert read.spiffe == NAME


NAMED = asn1.encode(asn1.UTF8_STRING, b"kairos.test issuer")
WRONG_FIELDS = {
    "serial 0": (asn1.encode(2, bytes(16)[:1] + SERIAL[1:]), asn1.encode(2, b"\0"), "serial"),
    "a negative serial": (b"", b"\x02\x10\x80", "serial"),
    "a serial of 21 octets": (b"", asn1.encode_integer(1 << 160), "serial"),
    "version 1": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\0", "version"),
    "version 2": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\1", "version"),
    "a PrintableString": (NAMED, b"\x13" + NAMED[1:], "no value of type 0x0c"),
    "an empty name": (NAMED, b"\x0c\0", "empty"),
    "a name that is not UTF-8": (NAMED, b"\x0c\2\xc3\x28", "utf-8"),
    "an organisation's name": (b"\6\3\x55\4\3", b"\6\3\x55\4\x0a", "common name"),
}


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_wrong_fields_are_refused(case: str) -> None:
    old, new, why = WRONG_FIELDS[case]
    reader = asn1.Reader(parse_certificate_untrusted(NODE).tbs).inside(asn1.SEQUENCE)
    fields = [reader.element(tag) for tag in (0xA0, asn1.INTEGER, *[asn1.SEQUENCE] * 5, 0xA3)]
    if "serial" in case:
        fields[1] = new if case != "a negative serial" else new + bytes(15)
    elif old in fields[0]:
        fields[0] = new
    else:
        text = asn1.Reader(fields[3]).inside(asn1.SEQUENCE).inside(asn1.SET).value(asn1.SEQUENCE).replace(old, new)
        fields[3] = asn1.encode(asn1.SEQUENCE, asn1.encode(asn1.SET, asn1.encode(asn1.SEQUENCE, text)))
    der = certificate(KR1, asn1.encode(asn1.SEQUENCE, *fields), bytes(KR1.signature_bytes))
    with pytest.raises(BadMessage, match=why):
        parse_certificate_untrusted(der)


def test_ber_is_refused() -> None:
    contents = NODE[4:]
    for long in (b"\x30\x83\0" + NODE[2:4], b"\x30\x84\0\0" + NODE[2:4]):
        with pytest.raises(BadMessage, match="shortest"):
            parse_certificate_untrusted(long + contents)
    with pytest.raises(BadMessage):
        parse_certificate_untrusted(b"\x30\x80" + contents + b"\0\0")
    with pytest.raises(BadMessage, match="more than expected"):
        parse_certificate_untrusted(NODE + b"\0")
    with pytest.raises(BadMessage, match="whole octets"):
        parse_certificate_untrusted(NODE[: -KR1.signature_bytes - 1] + b"\1" + NODE[-KR1.signature_bytes :])


def test_the_algorithms_are_those_of_one_suite() -> None:
    algorithm = asn1.encode_oid(KR1.signature_oid)
    for at in range(3):
        parts = NODE.split(algorithm)
        joined = b""
        for index, part in enumerate(parts):
            joined += part + (
                asn1.encode_oid(KR5.signature_oid if index == at else KR1.signature_oid) if index < 3 else b""
            )
        with pytest.raises(BadMessage, match="algorithms"):
            parse_certificate_untrusted(joined)


def test_it_is_bounded_and_ends_after_it_begins() -> None:
    with pytest.raises(BadMessage, match="bytes"):
        parse_certificate_untrusted(bytes(CERTIFICATE_MAX + 1))
    key = bytes(KR1.signature_public_key)
    tbs = ca_to_be_signed(KR1, "a", key, "a", key, SERIAL, ENDS, BEGINS, 1)
    with pytest.raises(BadMessage, match="before it begins"):
        parse_certificate_untrusted(certificate(KR1, tbs, bytes(KR1.signature_bytes)))
