"""How long and how large each field of a request may be (docs/api.md). What is beyond is refused as `invalid` when it is decoded.

Every text, list, map and number of a request to the fabric has one of these types, so no field is without a bound. Where a field
means something narrower, its service refuses what has no meaning.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

WHOLE_MAX = 2**53 - 1
"""The largest integer that JavaScript, and with it D1, takes exactly (RFC 8259 section 6)."""
COUNT_MAX = 10**12
"""A count or a mean of one minute; a month of them adds up to less than an SQLite integer takes."""
USES_MAX = 1_000_000
"""Devices that may join by one token."""
NAME_MAX = 64
"""Characters of a name: of a tenant, VNI, tag, group or host, or an id. Labels of DNS have at most 63."""
KEY_MAX = 80
"""Characters of what names a thing in a path, the longest being 64 digits in hex."""
RULE_MAX = 256
"""Characters of the id of a policy rule."""
PREFIX_MAX = 64
"""Characters of an address or a network. The longest IPv6 network has 49."""
TEXT_MAX = 1024
"""Characters of a sentence for a person: a reason, a label, an owner."""
DOMAIN_MAX = 253
"""Characters of a domain (RFC 1035 section 3.1, as text)."""
MANY_MAX = 1024
"""Entries of a list or map that has no narrower bound."""
FEW_MAX = 64
"""Entries of a list that a person writes by hand: tags, groups, prefixes of a VNI, addresses of a member."""
SELECTORS_MAX = 256
"""Selectors of a VNI, maps of an interconnect, VNIs of a token."""
PUBLIC_KEY_MAX = 2592
"""Bytes of an ML-DSA-87 public key (FIPS 204 table 2)."""
SIGNATURE_MAX = 4627
"""Bytes of an ML-DSA-87 signature (FIPS 204 table 2)."""
HASH_MAX = 64
"""Bytes of a hash, secret or nonce."""

Whole = Annotated[int, Meta(ge=0, le=WHOLE_MAX)]
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Measure = Annotated[float, Meta(ge=0, le=COUNT_MAX)]
Uses = Annotated[int, Meta(ge=0, le=USES_MAX)]
Name = Annotated[str, Meta(max_length=NAME_MAX)]
Key = Annotated[str, Meta(max_length=KEY_MAX)]
Rule = Annotated[str, Meta(max_length=RULE_MAX)]
Prefix = Annotated[str, Meta(max_length=PREFIX_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Domain = Annotated[str, Meta(max_length=DOMAIN_MAX)]
PublicKey = Annotated[bytes, Meta(max_length=PUBLIC_KEY_MAX)]
Signature = Annotated[bytes, Meta(max_length=SIGNATURE_MAX)]
Hash = Annotated[bytes, Meta(max_length=HASH_MAX)]
Few = Meta(max_length=FEW_MAX)
Some = Meta(max_length=SELECTORS_MAX)
Many = Meta(max_length=MANY_MAX)
Facts = Annotated[dict[Text, Any], Many]
"""A posture: its JSON has at most POSTURE_MAX bytes as well."""
