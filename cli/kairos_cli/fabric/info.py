"""`kairos fabric info`: shows the public facts of a fabric, after comparing them with those that the operator
directory pins."""

from __future__ import annotations

import argparse

from kairos.api.enrollment import FabricInfo
from kairos.errors import KairosError
from kairos.identity.certificate import parse_certificate_untrusted
from kairos.identity.transcript import fingerprint
from kairos_cli.admin import client
from kairos_cli.output import as_fields, as_json, hex_groups, moment


def run(options: argparse.Namespace) -> None:
    admin = client(options)
    operator, said = admin.operator, admin.get("/v1/fabric", FabricInfo)
    pinned = {
        "suite": (said.suite, operator.suite.name),
        "trust domain": (said.trust_domain, operator.trust_domain),
        "root CA": (said.root_certificate, operator.root_certificate),
        "policy key": (said.policy_key, operator.policy_key),
    }
    for name, (theirs, ours) in pinned.items():
        if theirs != ours:
            raise KairosError(
                f"the fabric at {operator.url} has another {name} than {operator.folder}: it is not yours"
            )
    if options.json:
        as_json(said)
        return
    issuer = parse_certificate_untrusted(said.issuer_certificate)
    as_fields(
        [
            ("fabric", operator.url),
            ("version", said.version),
            ("suite", said.suite),
            ("trust domain", said.trust_domain),
            ("relay", said.relay_url),
            ("root CA", hex_groups(fingerprint(said.root_certificate))),
            ("policy key", hex_groups(fingerprint(said.policy_key))),
            ("issuer until", moment(issuer.not_after)),
        ]
    )
