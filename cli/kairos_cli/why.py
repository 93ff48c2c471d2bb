"""`kairos why SRC DST PORT`: what the policy in force says of a connection, and which grants all but fit.

Decided here by the bundle that the nodes run, on the input that they would make; they are not asked.
"""

from __future__ import annotations

import argparse
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from kairos.api.admin import Device, PostureRecord, RouteRecord, VniRecord
from kairos.api.problem import ProblemError
from kairos.api.session import Member, Network, PolicyRecord, Route, Vni
from kairos.errors import KairosError
from kairos.policy.decision import Decision
from kairos.policy.input import PROTOCOLS, Application, Crossing, flow_input, rfc3339
from kairos_cli import past_decision
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.crossing import Way, find_way
from kairos_cli.fitting_grants import show_grants
from kairos_cli.grants import program
from kairos_cli.history import bundle_of
from kairos_cli.output import as_fields, as_json, as_table
from kairos_node.network_view import NetworkView


@dataclass(frozen=True)
class Party:
    """device: None for an address that no node holds."""

    device: Device | None
    addresses: list[str]

    @property
    def member(self) -> Member | None:
        if self.device is None:
            return None
        device = self.device
        return Member(
            device.node, device.role, device.name, device.serial, device.key_fingerprint, device.tags, device.groups, device.owner
        )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    from kairos_node.policy.bundle import unpack_untrusted
    from kairos_node.policy.engine import Engine

    admin, tenant = client(options), tenant_of(options)
    if options.decision:
        past_decision.show(admin, tenant, options.decision, options.json)
        return
    if options.port is None:
        raise KairosError("name source, destination and port, or a past decision with --decision ID")
    record = admin.get(at(tenant, "policy"), PolicyRecord)
    engine = Engine(unpack_untrusted(bundle_of(admin, tenant, record.version)), record.version, record.sha384)
    documents = _attempt(options, admin, tenant)
    decisions = {where: engine.decide(each["point"], each) for where, each in documents.items()}
    document = documents.get("interconnect") or documents["egress"]
    grants = engine.explain(document)
    if options.json:
        as_json({"policy_version": record.version, "input": document, "decisions": decisions, "grants": grants})
    else:
        _show(record.version, document, decisions, grants)


def _attempt(options: argparse.Namespace, admin: AdminClient, tenant: str) -> dict[str, dict[str, Any]]:
    """The input documents of that connection, now, by where they are judged."""
    devices = admin.pages(at(tenant, "devices"), Device)
    vnis = admin.pages(at(tenant, "vnis"), VniRecord)
    _add_routes(vnis, admin.pages(at(tenant, "routes"), RouteRecord))
    source, destination = _party(options.source, devices), _party(options.destination, devices)
    numbers = {name: number for number, name in sorted(PROTOCOLS.items(), reverse=True)}
    asked = partial(
        flow_input,
        now=rfc3339(time.time()),
        tenant=tenant,
        protocol=numbers[options.proto],
        gateway="",
        app=_app(options.app),
        posture=_posture(admin, tenant, source),
    )
    way = _way(options.vni, admin, tenant, vnis, source, destination)
    if way is not None:
        return _across(asked, way, {each.name: each for each in vnis}, devices, options.port)
    vni = _vni(options.vni, vnis, source, destination)
    from_, to = _addresses(vni, source, destination)
    document = asked(
        "egress",
        vni=vni.vni,
        vni_name=vni.name,
        device=source.member,
        peer=destination.member,
        source=(from_, 0),
        destination=(to, options.port),
        attachment="" if source.device else _attachment(vni, from_),
    )
    return {"egress": document, "ingress": _arrived(document)}


def _arrived(document: dict[str, Any]) -> dict[str, Any]:
    """The program is the endpoint's claim there; a host without an agent claims nothing."""
    claims = {"heard": document["device"]["node"] != "", "app": document["app"]}
    return {**document, "point": "ingress", "direction": "in", "app": None, "claims": claims}


def _way(
    wanted: str, admin: AdminClient, tenant: str, vnis: list[VniRecord], source: Party, destination: Party
) -> Way | None:
    """Over an interconnect, where no VNI has both."""
    if wanted or source.device is None or any(_addresses_in(vni, source, destination) for vni in vnis):
        return None
    to = destination.addresses[0] if destination.device is None else destination.device.node
    return find_way(admin, tenant, source.device.node, to)


def _across(
    asked: Callable[..., dict[str, Any]], way: Way, vnis: dict[str, VniRecord], devices: list[Device], port: int
) -> dict[str, dict[str, Any]]:
    """Out of the one VNI, across, into the other: each VNI knows the far end by an address that no node of it holds."""
    members = {each.node: Party(each, []).member for each in devices}
    here, there = vnis[way.here], vnis[way.there]
    device, peer = members.get(way.source.node), members.get(way.destination.node)
    out = asked(
        "egress",
        vni=here.vni,
        vni_name=here.name,
        device=device,
        peer=None,
        source=(str(way.source.address), 0),
        destination=(str(way.destination.seen), port),
    )
    crossing = Crossing(there.vni, there.name, str(way.source.seen), str(way.destination.seen))
    across = asked(
        "interconnect",
        vni=here.vni,
        vni_name=here.name,
        device=device,
        peer=peer,
        source=(str(way.source.address), 0),
        destination=(str(way.destination.address), port),
        crossing=crossing,
    )
    into = asked(
        "ingress",
        vni=there.vni,
        vni_name=there.name,
        device=None,
        peer=peer,
        source=(str(way.source.seen), 0),
        destination=(str(way.destination.address), port),
    )
    return {
        "egress": out,
        "ingress": _arrived(out),
        "interconnect": {**across, "app": None},
        f"ingress in {there.name}": {**into, "app": None, "posture": {}},
    }


def _add_routes(vnis: list[VniRecord], routes: list[RouteRecord]) -> None:
    """Those through endpoints, as far as they are in force."""
    for vni in vnis:
        vni.routes += [
            Route(each.prefix, each.node)
            for each in routes
            if each.vni == vni.name and each.approved and each.advertised
        ]


def _attachment(vni: VniRecord, address: str) -> str:
    seen = Vni(vni.vni, vni.name, vni.prefixes, routes=vni.routes)
    return NetworkView(Network(0, [seen], [], [], [])).attachment(vni.vni, ipaddress.ip_address(address))


def _posture(admin: AdminClient, tenant: str, source: Party) -> dict[str, Any]:
    """As policy sees it: a device that was silent has none."""
    if source.device is None:
        return {}
    try:
        record = admin.get(at(tenant, "devices", source.device.node, "posture"), PostureRecord)
    except ProblemError as error:
        if error.code != "not-found":
            raise
        return {}
    return {} if record.late else record.facts


def _party(text: str, devices: list[Device]) -> Party:
    """A node by id, name or address; or an address alone."""
    found = [each for each in devices if text in (each.node, each.name, *map(_host, each.addresses))]
    if len(found) == 1:
        own = [address for address in map(_host, found[0].addresses) if text in (found[0].node, found[0].name, address)]
        return Party(found[0], own)
    if len(found) > 1:
        raise KairosError(f"{len(found)} devices are named {text}; `kairos device list` shows the node ids")
    try:
        return Party(None, [str(ipaddress.ip_address(text))])
    except ValueError:
        raise KairosError(f"{text} is no device and no address; `kairos device list` shows what there is") from None


def _vni(wanted: str, vnis: list[VniRecord], source: Party, destination: Party) -> VniRecord:
    """The one that is asked for; else the first in which, or behind which, both are."""
    for vni in vnis:
        if wanted in (vni.name, str(vni.vni)) or (not wanted and _addresses_in(vni, source, destination)):
            return vni
    raise KairosError(
        f"there is no VNI {wanted}"
        if wanted
        else "source and destination share no VNI and no interconnect: no packet goes there"
    )


def _addresses(vni: VniRecord, source: Party, destination: Party) -> tuple[str, str]:
    found = _addresses_in(vni, source, destination)
    if found is None:
        raise KairosError(f"source and destination have no addresses of one family in or behind VNI {vni.name}")
    return found


def _addresses_in(vni: VniRecord, source: Party, destination: Party) -> tuple[str, str] | None:
    networks = [ipaddress.ip_network(text) for text in (*vni.prefixes, *(route.prefix for route in vni.routes))]
    if any(end.device is not None and vni.vni not in end.device.vnis for end in (source, destination)):
        return None
    for from_ in map(ipaddress.ip_address, source.addresses):
        for to in map(ipaddress.ip_address, destination.addresses):
            if from_.version == to.version and all(any(end in each for each in networks) for end in (from_, to)):
                return str(from_), str(to)
    return None


def _app(text: str) -> Application | None:
    """As a grant names it."""
    if not text:
        return None
    try:
        named = program(text)
    except ValueError as error:
        raise KairosError(f"--app: {error}") from None
    return Application(**{"path": "", "uid": 0, "unit": "", **named})


def _host(address: str) -> str:
    return address.partition("/")[0]


def _show(version: int, document: dict[str, Any], decisions: dict[str, Decision], grants: list[dict[str, Any]]) -> None:
    as_fields(
        [
            ("from", _end(document["device"], document["src"]["ip"])),
            ("to", f"{_end(document['peer'], document['dst']['ip'])}, {document['proto']} {document['dst']['port']}"),
            ("in", f"VNI {document['vni']['name']}{_beyond(document)}, policy version {version}"),
        ]
    )
    print()
    rows = [(point, "allow" if each.allow else "deny", each.rule, each.reason) for point, each in decisions.items()]
    as_table(("POINT", "VERDICT", "RULE", "REASON"), rows, "")
    show_grants(grants)


def _beyond(document: dict[str, Any]) -> str:
    crossing = document["interconnect"]
    if crossing is None:
        return ""
    return f", across into VNI {crossing['vni']['name']}, as {crossing['dst']} from {crossing['src']}"


def _end(party: dict[str, Any] | None, address: str) -> str:
    if party is None or not party["node"]:
        return f"{address}, which no node holds"
    marks = [*(f"tag:{tag}" for tag in party["tags"]), *(f"group:{group}" for group in party["groups"])]
    return " ".join([party["name"], f"({party['node']})", address, *marks])
