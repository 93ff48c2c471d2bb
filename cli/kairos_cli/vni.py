"""`kairos vni ...`."""

from __future__ import annotations

import argparse

from kairos.api.admin import VniCreate, VniRecord
from kairos.api.session import Route
from kairos.errors import KairosError
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.output import as_fields, as_json, as_table, listed, moment


def create(options: argparse.Namespace) -> None:
    wanted = VniCreate(
        options.name,
        options.prefix,
        options.id,
        options.mtu,
        options.dns_suffix,
        [_route(text) for text in options.route],
        options.selector,
    )
    _show(options, client(options).send("POST", at(tenant_of(options), "vnis"), wanted, VniRecord))


def change(options: argparse.Namespace) -> None:
    """What is not named stays as it is."""
    admin, path = client(options), at(tenant_of(options), "vnis", options.name)
    now = admin.get(path, VniRecord)
    wanted = VniCreate(
        now.name,
        now.prefixes if options.prefix is None else options.prefix,
        now.vni,
        now.mtu if options.mtu is None else options.mtu,
        now.dns_suffix if options.dns_suffix is None else options.dns_suffix,
        now.routes if options.route is None else [_route(text) for text in options.route if text],
        now.selectors if options.selector is None else [text for text in options.selector if text],
    )
    _show(options, admin.send("PUT", path, wanted, VniRecord))


def listing(options: argparse.Namespace) -> None:
    vnis = client(options).pages(at(tenant_of(options), "vnis"), VniRecord)
    if options.json:
        as_json(vnis)
    else:
        rows = [(each.name, each.vni, listed(each.prefixes), each.members, each.mtu) for each in vnis]
        as_table(
            ("NAME", "VNI", "PREFIXES", "MEMBERS", "MTU"),
            rows,
            "no VNI yet; kairos vni create NAME --prefix 10.7.0.0/24",
        )


def show(options: argparse.Namespace) -> None:
    _show(options, client(options).get(at(tenant_of(options), "vnis", options.name), VniRecord))


def delete(options: argparse.Namespace) -> None:
    client(options).delete(at(tenant_of(options), "vnis", options.name))
    print(f"VNI {options.name} is deleted; its members lose it now")


def _route(text: str) -> Route:
    prefix, found, via = text.partition("=")
    if not found or not via:
        raise KairosError(f"--route {text}: write PREFIX=GATEWAY, as in 192.168.50.0/24=gw-...")
    return Route(prefix, via)


def _show(options: argparse.Namespace, vni: VniRecord) -> None:
    if options.json:
        as_json(vni)
        return
    as_fields(
        [
            ("name", vni.name),
            ("vni", vni.vni),
            ("prefixes", listed(vni.prefixes)),
            ("routes", ", ".join(f"{each.prefix} via {each.via}" for each in vni.routes)),
            ("selectors", listed(vni.selectors)),
            ("mtu", vni.mtu),
            ("dns suffix", vni.dns_suffix),
            ("members", vni.members),
            ("created", moment(vni.created_at)),
        ]
    )
