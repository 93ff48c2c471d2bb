"""The grants file: policy for people who do not write Rego. Read strictly, written as the data that the shipped rules ask for.

    {"admission": [{"id": "staff", "roles": ["endpoint"], "tags": ["staff"], "outcome": "allow"}],
     "deny":  [{"id": "no-ssh", "from": ["*"], "to": ["tag:web"], "ports": ["tcp/22"], "reason": "use the bastion"}],
     "allow": [{"id": "web", "from": ["group:dev"], "to": ["192.168.50.0/24"], "ports": ["tcp/80", "tcp/8000-8100"]}]}

A party is `*`, `tag:`, `group:`, `owner:` or `node:` and a name, `external:` and the node that leads to a host without an agent (as
a source only), or a network. A port is `*`, `icmp`, or `tcp/` or `udp/` and a number, a
range or `*`. `vnis`, `apps`, `when` (hours of the week) and `require` (posture) narrow a grant, `expires_at` (RFC 3339) ends it and the connections it allowed,
`interconnect` (`office->lab`) makes it one for connections from one VNI into another and for no others,
`log: false` leaves what it allows out of the audit. A file that says nothing of `session` lets every device have a tunnel.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from kairos.constants import REPORTS_MAX
from kairos.errors import KairosError
from kairos.identity.spiffe import is_name as is_label
from kairos_cli.windows import Window, minutes

_PORT = re.compile(r"(tcp|udp|sctp)/(?:(\*)|(\d{1,5})(?:-(\d{1,5}))?)")
_PORT_MAX = 65_535
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_UID = re.compile(r"uid:\d{1,10}")
_UNIT = re.compile(r"(user@\d{1,10}\.service/)?[^/]+\.(service|scope)")  # the second form: of a user's own manager
_KINDS = ("tag", "group", "owner", "node", "external")


class AdmissionRule(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    roles: list[Literal["endpoint", "gateway"]]
    outcome: Literal["allow", "hold", "deny"]
    tags: list[str] = []
    reason: str = ""


class SessionRule(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    outcome: Literal["allow", "deny"]
    tags: list[str] = []
    require: dict[str, bool | int | str] = {}
    reason: str = ""


class IsolationRule(msgspec.Struct, forbid_unknown_fields=True):
    """over: how many a minute are too many; require: what `reports` reports in a row must fail."""

    id: str
    over: dict[Literal["forged", "replayed", "spoofed", "duplicates"], Annotated[int, msgspec.Meta(ge=1)]] = {}
    require: dict[str, bool | int | str] = {}
    reports: Annotated[int, msgspec.Meta(ge=1, le=REPORTS_MAX)] = 3
    tags: list[str] = []
    reason: str = ""

    def __post_init__(self) -> None:
        if not self.over and not self.require:
            raise ValueError(f"isolation rule {self.id}: it needs `over`, `require` or both")


_EVERYBODY = SessionRule("all", "allow", reason="the grants file asks nothing of sessions")


class Grant(msgspec.Struct, forbid_unknown_fields=True, rename={"source": "from", "destination": "to"}):
    id: str
    source: list[str]
    destination: list[str]
    ports: list[str]
    vnis: list[str] = []
    interconnect: str = ""
    when: list[Window] = []
    expires_at: str = ""
    apps: list[str] = []
    require: dict[str, bool | int | str] = {}
    reason: str = ""
    log: bool = True


class Grants(msgspec.Struct, forbid_unknown_fields=True):
    admission: list[AdmissionRule] = []
    session: list[SessionRule] = msgspec.field(default_factory=lambda: [_EVERYBODY])
    isolation: list[IsolationRule] = []
    deny: list[Grant] = []
    allow: list[Grant] = []


def load_grants(path: Path) -> bytes:
    """data.json of the bundle. Raises KairosError that names the file and the place in it."""
    try:
        grants = msgspec.json.decode(path.read_bytes(), type=Grants)
        for rules in (grants.admission, grants.session, grants.isolation, [*grants.deny, *grants.allow]):
            _unique(rules)
        for rule in grants.session:
            _required(rule.require, rule.outcome)
        deny, allow = ([_normal(grant, kind) for grant in getattr(grants, kind)] for kind in ("deny", "allow"))
    except FileNotFoundError:
        raise KairosError(f"there is no grants file {path}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise KairosError(f"{path}: {error}") from None
    data = {
        "admission": grants.admission,
        "session": grants.session,
        "isolation": grants.isolation,
        "deny": _indexed(deny),
        "allow": _indexed(allow),
        "networks": sorted(
            {name for grant in deny + allow for name in grant["from"] + grant["to"] if not _is_name(name)}
        ),
    }
    return msgspec.json.encode({"grants": data})


def _indexed(grants: list[dict[str, Any]]) -> dict[str, Any]:
    """The rules look only at grants that name the source."""
    places: dict[str, list[int]] = {}
    for place, grant in enumerate(grants):
        for name in grant["from"]:
            places.setdefault(name, []).append(place)
    return {"list": grants, "from": places}


def _normal(grant: Grant, effect: str) -> dict[str, Any]:
    try:
        return {
            "id": grant.id,
            "effect": effect,
            "from": [_party(text) for text in grant.source],
            "to": [_party(text) for text in grant.destination],
            "ports": [_port(text) for text in grant.ports],
            "vnis": grant.vnis,
            "interconnect": _interconnect(grant),
            "apps": [program(text) for text in grant.apps],
            "windows": sorted(each for window in grant.when for each in minutes(window)),
            "require": _required(grant.require, effect),
            "expires_at": _moment(grant.expires_at),
            "reason": grant.reason,
            "log": grant.log,
        }
    except ValueError as error:
        raise ValueError(f"grant {grant.id}: {error}") from None


def _interconnect(grant: Grant) -> str:
    """`office->lab`: from one VNI into another that it is joined to."""
    if not grant.interconnect:
        return ""
    ends = [end.strip() for end in grant.interconnect.split("->")]
    if len(ends) != 2 or ends[0] == ends[1] or not all(map(is_label, ends)):
        raise ValueError(f"interconnect {grant.interconnect!r}: write both VNIs, as in office->lab")
    if grant.vnis or grant.apps:
        raise ValueError(
            "interconnect names both VNIs, and no program is known there: leave vnis and apps to other grants"
        )
    return "->".join(ends)


def _required(facts: dict[str, bool | int | str], effect: str) -> dict[str, bool | int | str]:
    if facts and effect == "deny":
        raise ValueError(
            "a deny cannot require posture: whoever reports nothing would escape it; require it of an allow"
        )
    return facts


def _party(text: str) -> str:
    """As the rules name it: a network in its normal form, all else as written."""
    if _is_name(text):
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{text!r} is no party: *, tag:x, group:x, owner:x, node:x, external:x or a network") from None


def _is_name(text: str) -> bool:
    kind, _, value = text.partition(":")
    return text == "*" or (kind in _KINDS and value != "")


def program(text: str) -> dict[str, Any]:
    """Facts of a program that must all hold: path, hash and owner of its executable, systemd unit."""
    named: dict[str, Any] = {}
    for word in text.split():
        kind, _, value = word.partition(":")
        if word.startswith("/"):
            named["path"] = word
        elif kind == "unit" and _UNIT.fullmatch(value):
            named["unit"] = value
        elif _SHA256.fullmatch(word):
            named["sha256"] = value
        elif _UID.fullmatch(word):
            named["uid"] = int(value)
        else:
            named.clear()
            break
    if not named or len(named) != len(text.split()):
        raise ValueError(
            f"{text!r} is no program: /usr/bin/curl, unit:nginx.service, sha256:HEX, uid:1000, or several of these with spaces"
        )
    return named


def _port(text: str) -> dict[str, Any]:
    if text in ("*", "icmp"):
        return {"proto": text, "first": 0, "last": _PORT_MAX}
    match = _PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no port: *, icmp, tcp/443, udp/5000-5010 or tcp/*")
    first, last = (0, _PORT_MAX) if match[2] else (int(match[3]), int(match[4] or match[3]))
    if not 0 <= first <= last <= _PORT_MAX:
        raise ValueError(f"{text!r} is no port range")
    return {"proto": match[1], "first": first, "last": last}


def _moment(text: str) -> str:
    """As the rules compare it: UTC, whole seconds, or empty for never."""
    if not text:
        return ""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"expires_at {text!r} needs a time zone, as in 2027-01-01T00:00:00Z")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unique(items: Sequence[AdmissionRule | SessionRule | IsolationRule | Grant]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"the id {item.id!r} is there twice")
        seen.add(item.id)
