"""`kairos apply FILE`: tenants, VNIs, members and interconnects as one file says. What the file does not name is left alone, but for `--prune`."""

from __future__ import annotations

import argparse
import ipaddress
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import msgspec

from kairos.api.admin import (
    InterconnectCreate,
    InterconnectRecord,
    MemberRecord,
    MemberWanted,
    PrefixName,
    Tenant,
    VniCreate,
    VniRecord,
)
from kairos.api.session import Route
from kairos.errors import KairosError
from kairos_cli import tenant as tenants
from kairos_cli.admin import AdminClient, at, client


class MemberEntry(msgspec.Struct, forbid_unknown_fields=True):
    """[[tenant.vni.member]]. addresses: those that must be these; the fabric picks the others."""

    node: str
    addresses: list[str] = []


class VniEntry(msgspec.Struct, forbid_unknown_fields=True):
    """[[tenant.vni]]. id 0: as it is, or the next that is free."""

    name: str
    prefixes: list[str]
    id: int = 0
    mtu: int = 1380
    dns_suffix: str = ""
    routes: list[Route] = []
    selectors: list[str] = []
    member: list[MemberEntry] = []


class InterconnectEntry(msgspec.Struct, forbid_unknown_fields=True):
    """[[tenant.interconnect]]. map: names of prefixes on the other side, where they do not keep their own."""

    a: str
    b: str
    map: list[PrefixName] = []


class TenantEntry(msgspec.Struct, forbid_unknown_fields=True):
    """[[tenant]]"""

    name: str
    vni: list[VniEntry] = []
    interconnect: list[InterconnectEntry] = []


class Plan(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    tenant: list[TenantEntry] = []


@dataclass(frozen=True, slots=True)
class Step:
    """One change: `+` makes, `~` changes, `-` deletes. carry_out: does it."""

    mark: str
    what: str
    carry_out: Callable[[], object]


def apply(options: argparse.Namespace) -> None:
    plan, admin = load(options.file), client(options)
    steps = 0
    for step in chain(_steps(admin, plan), _prune(admin, plan) if options.prune else ()):
        print(f"{step.mark} {step.what}")
        if not options.dry_run:
            step.carry_out()
        steps += 1
    if steps == 0:
        print("nothing to change")
    elif options.dry_run:
        print(f"{steps} to change; this was a dry run, so nothing was")
    else:
        print(f"{steps} changed")


def load(path: Path) -> Plan:
    """Raises KairosError that names the place in the file."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Plan)
    except OSError as error:
        raise KairosError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeError, msgspec.ValidationError) as error:
        raise KairosError(f"{path}: {error}") from None


def _steps(admin: AdminClient, plan: Plan) -> Iterator[Step]:
    """Compared one after the other with the fabric as it is then: a step may stand on the one before."""
    known = {each.tenant for each in admin.pages("/v1/tenants", Tenant)}
    for wanted in plan.tenant:
        name = wanted.name
        if name not in known:
            yield Step("+", f"tenant {name}, with the shipped policy", partial(tenants.make, admin, name))
            # in a dry run there is no tenant to ask
            yield from _vnis(admin, wanted, {})
            yield from _interconnects(admin, wanted, [])
        else:
            yield from _vnis(admin, wanted, {each.name: each for each in admin.pages(at(name, "vnis"), VniRecord)})
            known_joins = admin.pages(at(name, "interconnects"), InterconnectRecord)
            yield from _interconnects(admin, wanted, known_joins)


def _prune(admin: AdminClient, plan: Plan) -> Iterator[Step]:
    """VNIs and interconnects of the tenants in the file that it does not name. A tenant itself is never deleted."""
    known = {each.tenant for each in admin.pages("/v1/tenants", Tenant)}
    for tenant in (each for each in plan.tenant if each.name in known):
        named = {entry.name for entry in tenant.vni}
        joined = {tuple(sorted((entry.a, entry.b))) for entry in tenant.interconnect}
        path = at(tenant.name, "interconnects")
        for each in admin.pages(path, InterconnectRecord):
            if (each.a, each.b) not in joined:
                yield Step(
                    "-",
                    f"interconnect {tenant.name}/{each.a}/{each.b}",
                    partial(admin.delete, f"{path}/{each.a}/{each.b}"),
                )
        for vni in admin.pages(at(tenant.name, "vnis"), VniRecord):
            if vni.name not in named:
                yield Step(
                    "-", f"vni {tenant.name}/{vni.name}, with its {vni.members} members",
                    partial(admin.delete, at(tenant.name, "vnis", vni.name)),
                )  # fmt: skip


def _vnis(admin: AdminClient, tenant: TenantEntry, known: dict[str, VniRecord]) -> Iterator[Step]:
    for entry in tenant.vni:
        wanted = VniCreate(
            entry.name, _canonical(entry.prefixes, ipaddress.ip_network), entry.id, entry.mtu, entry.dns_suffix, entry.routes,
            sorted(set(entry.selectors)),
        )  # fmt: skip
        path, record = at(tenant.name, "vnis", entry.name), known.get(entry.name)
        if record is None:
            yield Step(
                "+", f"vni {tenant.name}/{entry.name}: {', '.join(wanted.prefixes)}",
                partial(admin.send, "POST", at(tenant.name, "vnis"), wanted, VniRecord),
            )  # fmt: skip
        elif changes := list(_differences(record, wanted)):
            yield Step(
                "~", f"vni {tenant.name}/{entry.name}: {'; '.join(changes)}",
                partial(admin.send, "PUT", path, wanted, VniRecord),
            )  # fmt: skip
        yield from _members(admin, tenant.name, entry, new=record is None)


def _members(admin: AdminClient, tenant: str, entry: VniEntry, new: bool) -> Iterator[Step]:
    if not entry.member:
        return
    path = at(tenant, "vnis", entry.name, "members")
    known = {} if new else {each.node: each.addresses for each in admin.pages(path, MemberRecord)}
    for member in entry.member:
        held = {address.partition("/")[0] for address in known.get(member.node, [])}
        if member.node in known and set(_canonical(member.addresses, ipaddress.ip_address)) <= held:
            continue
        mark = "~" if member.node in known else "+"
        where = f": {', '.join(member.addresses)}" if member.addresses else ""
        yield Step(
            mark, f"member {tenant}/{entry.name}/{member.node}{where}",
            partial(admin.send, "PUT", f"{path}/{member.node}", MemberWanted(member.addresses), MemberRecord),
        )  # fmt: skip


def _interconnects(admin: AdminClient, tenant: TenantEntry, known: list[InterconnectRecord]) -> Iterator[Step]:
    """Other names are made anew: what lives across is cut."""
    records, path = {(each.a, each.b): each for each in known}, at(tenant.name, "interconnects")
    for entry in tenant.interconnect:
        a, b = sorted((entry.a, entry.b))
        wanted, record = InterconnectCreate(a, b, entry.map), records.get((a, b))
        what = f"interconnect {tenant.name}/{a}/{b}"
        if record is None:
            yield Step("+", what, partial(admin.send, "POST", path, wanted, InterconnectRecord))
        elif _names(record) != {each for each in map(_name, entry.map) if each[1] != each[2]}:
            yield Step("~", f"{what}: other names", partial(_join_again, admin, path, wanted))


def _names(record: InterconnectRecord) -> set[tuple[str, str, str]]:
    """But for prefixes that keep theirs."""
    return {_name(each) for each in record.maps if each.prefix != each.seen}


def _name(each: PrefixName) -> tuple[str, str, str]:
    prefix, seen = _canonical([each.prefix, each.seen], ipaddress.ip_network)
    return each.vni, prefix, seen


def _join_again(admin: AdminClient, path: str, wanted: InterconnectCreate) -> None:
    admin.delete(f"{path}/{wanted.a}/{wanted.b}")
    admin.send("POST", path, wanted, InterconnectRecord)


def _differences(record: VniRecord, wanted: VniCreate) -> Iterator[str]:
    """What a change would change, in words."""
    for name in ("prefixes", "mtu", "dns_suffix", "routes", "selectors"):
        before, after = getattr(record, name), getattr(wanted, name)
        if before != after:
            yield f"{name} {_shown(before)} -> {_shown(after)}"
    if wanted.vni not in (0, record.vni):
        yield f"id {record.vni} -> {wanted.vni}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return (
            ", ".join(f"{each.prefix} via {each.via}" if isinstance(each, Route) else str(each) for each in value)
            or "none"
        )
    return str(value) or "none"


def _canonical(texts: Iterable[str], parse: Callable[[str], object]) -> list[str]:
    """As the fabric writes them; what cannot be parsed is for the fabric to refuse."""
    written = []
    for text in texts:
        try:
            written.append(str(parse(text)))
        except ValueError:
            written.append(text)
    return written
