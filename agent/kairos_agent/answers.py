"""What a VNI's name server says to a query (RFC 1035): members of this VNI, and nothing of any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.rdatatype import RdataType

from kairos.errors import BadMessage
from kairos_node.network_view import Address
from kairos_node.zone import Zone, lies_under

TTL_S = 5  # so long a device that was taken out keeps its name in caches
_UDP_LEAST, _UDP_MOST, _TCP_MOST = 512, 1232, 65_535
_TYPES = {4: RdataType.A, 6: RdataType.AAAA}
_Records = Mapping[RdataType, Sequence[str]]


def parse_query_untrusted(wire: bytes) -> dns.message.Message:
    """A query with one question. Raises BadMessage: there is nobody to answer."""
    try:
        query = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError) as error:
        raise BadMessage(f"DNS query: {error}") from None
    if query.flags & dns.flags.QR or query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        raise BadMessage("DNS query: not one question")
    return query


def answer(zone: Zone, query: dns.message.Message, stream: bool) -> bytes:
    """The response; over UDP what is too long is cut and says so."""
    response = dns.message.make_response(query, our_payload=_UDP_MOST)
    asked = query.question[0]
    records = _records(zone, asked.name) if asked.rdclass == dns.rdataclass.IN else None
    if records is None:
        response.set_rcode(dns.rcode.REFUSED)
    else:
        _say(zone, response, records)
    most = _TCP_MOST if stream else min(max(query.payload, _UDP_LEAST), _UDP_MOST)
    return response.to_wire(max_size=most, prefer_truncation=True)


def _say(zone: Zone, response: dns.message.Message, records: _Records) -> None:
    """With our own authority: nobody else knows this name. Of one without records there is no name, apart from the suffix."""
    asked = response.question[0]
    response.flags |= dns.flags.AA
    for kind, texts in records.items():
        if texts and asked.rdtype in (kind, RdataType.ANY):
            response.answer.append(dns.rrset.from_text(asked.name, TTL_S, "IN", kind, *texts))
    if not any(records.values()) and _text(asked.name) != zone.suffix:
        response.set_rcode(dns.rcode.NXDOMAIN)
    if not response.answer:
        about = f"{zone.suffix}. nobody.invalid. 1 {TTL_S} {TTL_S} {TTL_S} {TTL_S}"
        response.authority.append(dns.rrset.from_text(f"{zone.suffix}.", TTL_S, "IN", "SOA", about))


def _records(zone: Zone, name: dns.name.Name) -> _Records | None:
    """All records of that name; None: it is none of this VNI."""
    if not zone.suffix:
        return None
    text = _text(name)
    if lies_under(text, zone.suffix):
        addresses = zone.addresses(text.removesuffix(zone.suffix).removesuffix("."))
        return {kind: [str(each) for each in addresses if each.version == version] for version, kind in _TYPES.items()}
    address = _reversed(name)
    if address is None or not any(address in prefix for prefix in zone.prefixes):
        return None
    bearer = zone.name(address)
    return {RdataType.PTR: [f"{bearer}.{zone.suffix}."] if bearer else []}


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _reversed(name: dns.name.Name) -> Address | None:
    """The address that a name under in-addr.arpa or ip6.arpa stands for."""
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
