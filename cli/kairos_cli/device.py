"""`kairos device ...`."""

from __future__ import annotations

import argparse
import time

from kairos.api.admin import Device, PostureRecord, Reason
from kairos.errors import KairosError
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.output import as_fields, as_json, as_table, hex_groups, listed, moment


def listing(options: argparse.Namespace) -> None:
    devices = client(options).pages(at(tenant_of(options), "devices"), Device)
    if options.json:
        as_json(devices)
    else:
        rows = [
            (
                each.node,
                each.name,
                each.role,
                each.status,
                "online" if each.online else "",
                listed(each.addresses),
                listed(each.tags),
            )
            for each in devices
        ]
        as_table(
            ("NODE", "NAME", "ROLE", "STATUS", "", "ADDRESSES", "TAGS"),
            rows,
            "nothing has enrolled yet; kairos token create",
        )


def show(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    _show(options, admin.get(at(tenant, "devices", node), Device))


def approve(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    _show(options, admin.send("POST", at(tenant, "devices", node, "approve"), {}, Device))


def deny(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    _show(options, admin.send("POST", at(tenant, "devices", node, "deny"), Reason(options.reason), Device))


def delete(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    admin.delete(at(tenant, "devices", node))
    print(f"{node} is revoked: its certificates and sessions are dead, its key never enrolls again")


def posture(options: argparse.Namespace) -> None:
    admin, tenant, node = named(options)
    record = admin.get(at(tenant, "devices", node, "posture"), PostureRecord)
    if options.json:
        as_json(record)
        return
    age = max(0, int(time.time()) - record.at)
    print(f"reported {age} s ago" + (": too old, policy sees none of it" if record.late else ""))
    as_fields((name, str(value).lower() if isinstance(value, bool) else value) for name, value in record.facts.items())


def named(options: argparse.Namespace) -> tuple[AdminClient, str, str]:
    """With whom to speak, the tenant, and the node id."""
    admin, tenant = client(options), tenant_of(options)
    return admin, tenant, node_of(admin, tenant, options.device)


def node_of(admin: AdminClient, tenant: str, device: str) -> str:
    """A node id as it is, or the one device of that name."""
    if device.startswith(("ep-", "gw-")):
        return device
    found = [each.node for each in admin.pages(at(tenant, "devices"), Device) if each.name == device]
    if len(found) != 1:
        said = "no device" if not found else f"{len(found)} devices"
        raise KairosError(f"{said} named {device}; `kairos device list` shows the node ids")
    return found[0]


def _show(options: argparse.Namespace, device: Device) -> None:
    if options.json:
        as_json(device)
        return
    as_fields(
        [
            ("node", device.node),
            ("name", device.name),
            ("role", device.role),
            ("status", device.status),
            ("reason", device.reason),
            ("online", "yes" if device.online else "no"),
            ("addresses", listed(device.addresses)),
            ("tags", listed(device.tags)),
            ("groups", listed(device.groups)),
            ("owner", device.owner),
            ("certificate", device.serial),
            ("until", moment(device.certificate_not_after)),
            ("enrolled", moment(device.enrolled_at)),
            ("key", hex_groups(device.key_fingerprint)),
        ]
    )
