"""Names inside a VNI: who bears which, and what its name server says to whom."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address, ip_network

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.api.session import Lease, Member, Network, Vni
from kairos.errors import BadMessage
from kairos_agent.answers import answer, parse_query_untrusted
from kairos_agent.name_service import reverse_zones
from kairos_node.network_view import NetworkView
from kairos_node.zone import Zone, label_of

RECORD = Network(
    revision=1,
    vnis=[
        Vni(7, "office", ["10.7.0.0/24", "fd07::/64"], dns_suffix="Office.internal."),
        Vni(8, "vault", ["10.7.0.0/24"], dns_suffix="vault.internal"),
        Vni(9, "odd", ["10.9.0.0/24"], dns_suffix="no domain"),
    ],
    leases=[
        Lease(7, "gw-a", ["10.7.0.1/24"]),
        Lease(7, "ep-a", ["10.7.0.5/24", "fd07::5/64"]),
        Lease(7, "ep-b", ["10.7.0.6/24"]),
        Lease(7, "ep-c", ["10.7.0.7/24"]),
        Lease(7, "ep-gone", ["10.7.0.8/24"]),
        Lease(8, "ep-d", ["10.7.0.5/24"]),
        Lease(9, "ep-a", ["10.9.0.5/24"]),
    ],
    members=[
        Member(node, "endpoint", name, "1", b"")
        for node, name in (
            ("gw-a", "Gate.example.net"), ("ep-a", "Alice's laptop"), ("ep-b", "web"), ("ep-c", "WEB"), ("ep-d", "ep-a"),
        )
    ],
    revoked=[],
)  # fmt: skip
OFFICE, VAULT, ODD = (Zone(NetworkView(RECORD), vni) for vni in (7, 8, 9))


def said(zone: Zone, name: str, kind: str = "A", stream: bool = False) -> tuple[str, list[str]]:
    query = dns.message.make_query(name, kind)
    response = dns.message.from_wire(answer(zone, parse_query_untrusted(query.to_wire()), stream))
    assert response.id == query.id
    assert not response.flags & dns.flags.RA  # it asks nobody else
    return dns.rcode.to_text(response.rcode()), [record.to_text() for rrset in response.answer for record in rrset]


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "records"),
    [
        ("alice-s-laptop.office.internal", "A", "NOERROR", ["10.7.0.5"]),
        ("ALICE-S-LAPTOP.Office.Internal", "AAAA", "NOERROR", ["fd07::5"]),
        ("ep-a.office.internal", "A", "NOERROR", ["10.7.0.5"]),
        ("gate.office.internal", "A", "NOERROR", ["10.7.0.1"]),
        ("gate.office.internal", "AAAA", "NOERROR", []),
        ("gate.office.internal", "TXT", "NOERROR", []),
        ("office.internal", "A", "NOERROR", []),
        ("web.office.internal", "A", "NXDOMAIN", []),  # two bear it
        ("ep-c.office.internal", "A", "NOERROR", ["10.7.0.7"]),
        ("ep-gone.office.internal", "A", "NXDOMAIN", []),  # no active device
        ("ep-d.office.internal", "A", "NXDOMAIN", []),  # of another VNI
        ("x.gate.office.internal", "A", "NXDOMAIN", []),
        ("5.0.7.10.in-addr.arpa", "PTR", "NOERROR", ["alice-s-laptop.office.internal."]),
        ("6.0.7.10.in-addr.arpa", "PTR", "NOERROR", ["ep-b.office.internal."]),
        ("99.0.7.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("5.0.8.10.in-addr.arpa", "PTR", "REFUSED", []),
        ("ep-d.vault.internal", "A", "REFUSED", []),
        ("notoffice.internal", "A", "REFUSED", []),
        ("example.com", "A", "REFUSED", []),
        (".", "NS", "REFUSED", []),
    ],
)
def test_a_vni_knows_its_own_members(name: str, kind: str, rcode: str, records: list[str]) -> None:
    assert said(OFFICE, name, kind) == (rcode, records)


def test_the_same_address_has_another_name_in_another_vni() -> None:
    assert said(VAULT, "5.0.7.10.in-addr.arpa", "PTR") == ("NOERROR", ["ep-a.vault.internal."])
    assert said(VAULT, "alice-s-laptop.office.internal") == ("REFUSED", [])


def test_a_device_cannot_take_anothers_node_id_for_its_name() -> None:
    members = [Member("ep-a", "endpoint", "a", "1", b""), Member("ep-b", "endpoint", "ep-a", "1", b"")]
    zone = Zone(NetworkView(Network(1, RECORD.vnis, RECORD.leases, members, [])), 7)
    assert zone.addresses("ep-a") == (ip_address("10.7.0.5"), ip_address("fd07::5"))


def test_without_a_suffix_nothing_is_known() -> None:
    assert said(ODD, "ep-a.no domain") == ("REFUSED", [])
    assert said(ODD, "5.0.9.10.in-addr.arpa", "PTR") == ("REFUSED", [])


def test_what_is_too_long_for_udp_says_so() -> None:
    leases = [Lease(7, "ep-a", [f"fd07::{number:x}/64" for number in range(1, 200)])]
    zone = Zone(NetworkView(Network(1, RECORD.vnis, leases, RECORD.members, [])), 7)
    query = dns.message.make_query("ep-a.office.internal", "AAAA")
    short = answer(zone, query, stream=False)
    assert len(short) <= 512
    assert dns.message.from_wire(short, ignore_trailing=True).flags & dns.flags.TC
    assert len(said(zone, "ep-a.office.internal", "AAAA", stream=True)[1]) == 199


@pytest.mark.parametrize(
    ("prefix", "zones"),
    [
        ("10.7.0.0/24", ["0.7.10.in-addr.arpa"]),
        ("10.7.0.0/23", ["0.7.10.in-addr.arpa", "1.7.10.in-addr.arpa"]),
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("10.7.0.0/26", []),  # the rest of that zone is not ours
        ("10.0.0.0/9", []),
        ("0.0.0.0/0", []),
        ("fd07::/64", ["0.0.0.0.0.0.0.0.0.0.0.0.7.0.d.f.ip6.arpa"]),
    ],
)
def test_reverse_zones_hold_only_what_is_the_vnis(prefix: str, zones: list[str]) -> None:
    assert reverse_zones([ip_network(prefix)]) == zones


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: b"\0\1\1\0\0\1\0\0\0\0\0\0" + tail))
def test_any_bytes_are_a_query_or_a_bad_message(wire: bytes) -> None:
    with contextlib.suppress(BadMessage):
        answer(OFFICE, parse_query_untrusted(wire), stream=False)


@given(st.text(max_size=40))
def test_any_host_name_gives_a_label_or_none(name: str) -> None:
    label = label_of(name)
    assert len(label) <= 63
    assert label == label.strip("-")
    assert label.isascii()
