"""`kairos certificate list | revoke`."""

from __future__ import annotations

import argparse

from kairos.api.admin import CertificateRecord, Reason
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.device import named
from kairos_cli.output import as_json, as_table, moment


def listing(options: argparse.Namespace) -> None:
    """Of one device, where one is named."""
    node = named(options)[2] if options.device else ""
    certificates = client(options).pages(at(tenant_of(options), "certificates"), CertificateRecord, node=node)
    if options.json:
        as_json(certificates)
        return
    rows = [
        (each.serial, each.node, moment(each.not_before), moment(each.not_after), _state(each)) for each in certificates
    ]
    as_table(("SERIAL", "NODE", "FROM", "UNTIL", ""), rows, "no certificate holds; nothing has enrolled yet")


def revoke(options: argparse.Namespace) -> None:
    path = at(tenant_of(options), "certificates", options.serial, "revoke")
    record = client(options).send("POST", path, Reason(options.reason), CertificateRecord)
    if options.json:
        as_json(record)
    else:
        print(
            f"{record.serial} of {record.node} is refused everywhere; if it was in use, {record.node} rotates its key now"
        )


def _state(certificate: CertificateRecord) -> str:
    return f"refused from {moment(certificate.refused_from)}: {certificate.reason}" if certificate.refused_from else ""
