"""Audit events as the Open Cybersecurity Schema Framework has them, version 1.3: what a SIEM understands without being taught.

Flows are Network Activity (4001), sessions and refused callers Authentication (3002), changes of records Entity Management (3004), what
calls for somebody to look Detection Finding (2004). What is none of these is a Base Event (0). Whatever has no place in the class
stays whole under `unmapped`: nothing is left out, and nothing is called what it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

import kairos
from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW, FlowRow, FlowWindow
from kairos.policy.input import PROTOCOLS

VERSION = "1.3.0"
Record = dict[str, Any]

_NETWORK, _AUTHENTICATION, _ENTITY, _FINDING, _BASE = 4001, 3002, 3004, 2004, 0
_OPEN, _CLOSE, _RESET, _REFUSE = 1, 2, 3, 5  # activities of 4001
_LOGON, _LOGOFF = 1, 2  # of 3002
_CREATE, _UPDATE, _DELETE, _OTHER = 1, 3, 4, 99  # of 3004
_SUCCESS, _FAILURE = 1, 2
_INFORMATIONAL, _MEDIUM, _HIGH = 1, 3, 4
_SYSTEM = 3  # type of a user: a machine
_INBOUND, _OUTBOUND, _LATERAL = 1, 2, 3
_FAILED = {"denied", "refused", "flood"}
_TIME_MAX_S = 1e12
_FINDINGS = {
    "audit.inconsistent": (_HIGH, "A history of the audit that does not go on from the one before"),
    "ledger.differs": (_HIGH, "A flow that only one end tells of"),
    "verdict.differs": (_MEDIUM, "Two ends decided differently about a connection"),
    "isolation.reported": (_HIGH, "Policy isolates a device for its conduct"),
    "clock.skew": (_MEDIUM, "A clock that is off"),
}
_RECORDS = {
    "admin", "audit", "certificate", "device", "enrollment", "gateway", "interconnect", "member", "policy", "route", "tenant", "token", "vni",
}  # fmt: skip
_CREATED = {"created", "issued", "pushed", "added", "held"}
_DELETED = {"deleted", "removed", "revoked", "retired", "withdrawn"}


def records(event: Event) -> list[Record]:
    """One, or one for each flow of a window. An event whose detail is not that of its kind is a Base Event: a node says in its
    detail what it likes."""
    try:
        return list(_mapped(event))
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError):
        return [_base(event)]


def _mapped(event: Event) -> Iterator[Record]:
    subject, _, verb = event.kind.partition(".")
    if event.kind == LEDGER_WINDOW:
        yield from _window(event)
    elif event.kind in ("flow.allowed", "flow.denied"):
        yield _decided(event, event.detail["input"])
    elif event.kind in _FINDINGS:
        yield _finding(event)
    elif subject in ("session", "request"):
        yield _authentication(event, verb)
    elif subject in _RECORDS:
        yield _entity(event, subject, verb)
    else:
        yield _base(event)


def _base(event: Event, class_uid: int = _BASE, activity: int = _OTHER, severity: int = _INFORMATIONAL) -> Record:
    record: Record = {
        "class_uid": class_uid,
        "category_uid": class_uid // 1000,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "severity_id": severity,
        "time": _ms(event.at) if abs(event.at) < _TIME_MAX_S else 0,
        "metadata": {
            "version": VERSION,
            "uid": event.id,
            "event_code": event.kind,
            "tenant_uid": event.tenant,
            "log_provider": event.source,
            "product": {"name": "KairOS Red", "vendor_name": "KairOS Red", "version": kairos.__version__},
        },
        "unmapped": msgspec.to_builtins(event),
    }
    if activity == _OTHER:
        record["activity_name"] = event.kind
    if event.reason:
        record["message"] = record["status_detail"] = event.reason
    return record


def _window(event: Event) -> Iterator[Record]:
    for number, row in enumerate(msgspec.convert(event.detail, FlowWindow).rows):
        yield _flow(event, number, row)


def _flow(event: Event, number: int, row: FlowRow) -> Record:
    """packets and bytes out are those towards the responder."""
    activity = {"": _OPEN, "cut": _RESET, "denied": _RESET}.get(row.end, _CLOSE)
    (packets_out, packets_in), (bytes_out, bytes_in) = row.packets, row.bytes
    record = _base(event, _NETWORK, activity)
    record["metadata"]["uid"] = f"{event.id}-{number}"
    record["unmapped"] = {"rule": row.rule, "vni": row.vni, "session": row.session, "end": row.end}
    return record | {
        "time": _ms(row.last),
        "start_time": _ms(row.opened),
        "end_time": _ms(row.last),
        "duration": max(0, _ms(row.last) - _ms(row.opened)),
        "src_endpoint": _endpoint(row.source, row.source_port, row.device),
        "dst_endpoint": _endpoint(row.destination, row.destination_port, row.peer),
        "connection_info": {
            "protocol_num": row.protocol,
            "protocol_name": PROTOCOLS.get(row.protocol, str(row.protocol)),
            "direction_id": _direction(row.device, row.peer, "ingress"),
        },
        "traffic": {
            "packets": packets_out + packets_in, "packets_out": packets_out, "packets_in": packets_in,
            "bytes": bytes_out + bytes_in, "bytes_out": bytes_out, "bytes_in": bytes_in,
        },
    }  # fmt: skip


def _decided(event: Event, asked: Record) -> Record:
    """asked: the policy's input."""
    allowed = event.outcome == "allow"
    device, peer = asked["device"]["node"] or asked["attachment"], (asked["peer"] or {}).get("node", "")
    record = _base(event, _NETWORK, _OPEN if allowed else _REFUSE)
    record["metadata"]["profiles"] = ["security_control"]
    return record | {
        "action_id": 1 if allowed else 2,
        "disposition_id": 1 if allowed else 2,  # allowed, blocked
        "status_id": _SUCCESS if allowed else _FAILURE,
        "firewall_rule": {"name": event.rule, "version": str(event.policy_version)},
        "src_endpoint": _endpoint(asked["src"]["ip"], asked["src"]["port"], device),
        "dst_endpoint": _endpoint(asked["dst"]["ip"], asked["dst"]["port"], peer),
        "connection_info": {"protocol_name": asked["proto"], "direction_id": _direction(device, peer, asked["point"])},
    }


def _finding(event: Event) -> Record:
    severity, title = _FINDINGS[event.kind]
    return _base(event, _FINDING, _CREATE, severity) | {
        "status_id": 1,  # new
        "is_alert": True,
        "finding_info": {"uid": event.id, "title": title, "desc": event.reason, "created_time": _ms(event.at)},
        "resources": [{"uid": event.subject or event.source}],
    }


def _authentication(event: Event, verb: str) -> Record:
    activity = {"opened": _LOGON, "ended": _LOGOFF}.get(verb, _LOGON if verb in _FAILED else _OTHER)
    return _base(event, _AUTHENTICATION, activity) | {
        "status_id": _FAILURE if verb in _FAILED else _SUCCESS,
        "user": {"uid": event.actor or "unknown", "type_id": _SYSTEM},
        "service": {"name": f"KairOS Red, {event.source}"},
        "is_remote": True,
    }


def _entity(event: Event, subject: str, verb: str) -> Record:
    activity = _CREATE if verb in _CREATED else _DELETE if verb in _DELETED else _UPDATE
    failed = event.outcome == "deny" or verb in _FAILED
    return _base(event, _ENTITY, activity) | {
        "status_id": _FAILURE if failed else _SUCCESS,
        "actor": {"user": {"uid": event.actor or event.source}},
        "entity": {"uid": event.subject or event.source, "type": subject},
        "comment": event.reason,
    }


def _endpoint(ip: str, port: int, node: str) -> Record:
    return {"ip": ip, "port": port} | ({"uid": node} if node else {})


def _direction(device: str, peer: str, point: str) -> int:
    if device and peer:
        return _LATERAL
    return _OUTBOUND if point == "egress" else _INBOUND


def _ms(unix: float) -> int:
    return round(unix * 1000)
