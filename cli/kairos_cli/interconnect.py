"""`kairos interconnect ...`."""

from __future__ import annotations

import argparse

from kairos.api.admin import InterconnectCreate, InterconnectRecord, PrefixName
from kairos.errors import KairosError
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.output import as_fields, as_json, as_table, moment


def create(options: argparse.Namespace) -> None:
    wanted = InterconnectCreate(options.a, options.b, [_map(text) for text in options.map])
    path = at(tenant_of(options), "interconnects")
    _show(options, client(options).send("POST", path, wanted, InterconnectRecord))


def listing(options: argparse.Namespace) -> None:
    records = client(options).pages(at(tenant_of(options), "interconnects"), InterconnectRecord)
    if options.json:
        as_json(records)
    else:
        rows = [(each.a, each.b, _names(each, each.a), _names(each, each.b)) for each in records]
        as_table(
            ("A", "B", "A IN B", "B IN A"),
            rows,
            "no interconnect: no packet goes from one VNI into another; kairos interconnect create A B",
        )


def show(options: argparse.Namespace) -> None:
    path = at(tenant_of(options), "interconnects", options.a, options.b)
    _show(options, client(options).get(path, InterconnectRecord))


def delete(options: argparse.Namespace) -> None:
    client(options).delete(at(tenant_of(options), "interconnects", options.a, options.b))
    print(f"{options.a} and {options.b} are parted; the gateways cut what lives across now")


def _map(text: str) -> PrefixName:
    vni, found, networks = text.partition(":")
    prefix, equals, seen = networks.partition("=")
    if not (vni and found and prefix and equals and seen):
        raise KairosError(f"--map {text}: write VNI:PREFIX=NAME, as in lab:10.7.0.0/24=10.202.0.0/24")
    return PrefixName(vni, prefix, seen)


def _names(record: InterconnectRecord, vni: str) -> str:
    """What the other VNI calls this one's prefixes."""
    return ", ".join(
        each.prefix if each.prefix == each.seen else f"{each.prefix} as {each.seen}"
        for each in record.maps
        if each.vni == vni
    )


def _show(options: argparse.Namespace, record: InterconnectRecord) -> None:
    if options.json:
        as_json(record)
        return
    as_fields(
        [
            ("joins", f"{record.a} and {record.b}"),
            (f"{record.a} in {record.b}", _names(record, record.a)),
            (f"{record.b} in {record.a}", _names(record, record.b)),
            ("created", moment(record.created_at)),
        ]
    )
    print(
        f"\nPolicy lets a connection across only by a grant with interconnect: {record.a}->{record.b} or {record.b}->{record.a}"
    )
