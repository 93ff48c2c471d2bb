"""`kairos policy list|diff|rollback`: what was in force, what another policy would change, and back to one that was.

Bundles come from the fabric, which may have altered them: each is checked like a node does before it is shown or signed again.
"""

from __future__ import annotations

import argparse
import difflib
import json

from kairos.api.admin import PolicyVersion
from kairos.api.session import PolicyRecord
from kairos.errors import KairosError
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.output import as_json, as_table, moment
from kairos_cli.policy import compile_bundle, push_bundle, source_of


def listing(options: argparse.Namespace) -> None:
    versions = client(options).pages(at(tenant_of(options), "policy", "versions"), PolicyVersion)
    if options.json:
        as_json(versions)
        return
    rows = [(each.record.version, moment(each.created_at), each.record.sha384.hex()[:16]) for each in versions]
    as_table(("VERSION", "PUSHED", "SHA-384"), rows, "this tenant has no policy yet; kairos policy push")


def diff(options: argparse.Namespace) -> None:
    admin, tenant = client(options), tenant_of(options)
    old = options.old or admin.get(at(tenant, "policy"), PolicyRecord).version
    if options.new:
        candidate, name = bundle_of(admin, tenant, options.new), f"version {options.new}"
    else:
        candidate, name = compile_bundle(*source_of(options)), "the candidate"
    lines = list(
        difflib.unified_diff(
            _text(bundle_of(admin, tenant, old)), _text(candidate), f"version {old}", name, lineterm="", n=1
        )
    )
    if options.json:
        as_json(lines)
    else:
        print("\n".join(lines) or f"version {old} and {name} say the same")


def rollback(options: argparse.Namespace) -> None:
    admin, tenant = client(options), tenant_of(options)
    record = push_bundle(admin, tenant, bundle_of(admin, tenant, options.version))
    if options.json:
        as_json(record)
    else:
        print(
            f"the policy of version {options.version} is in force again at tenant {tenant}, as version {record.version}"
        )


def bundle_of(admin: AdminClient, tenant: str, version: int) -> bytes:
    """The bundle of a version, if it is what we once signed. Raises Refused, KairosError."""
    from kairos_node.crypto import provider_named
    from kairos_node.policy.bundle import verify_untrusted

    versions = admin.pages(at(tenant, "policy", "versions"), PolicyVersion)
    records = [each.record for each in versions if each.record.version == version]
    if not records:
        raise KairosError(f"tenant {tenant} never had a policy version {version}; see `kairos policy list`")
    bundle = admin.octets("GET", f"{at(tenant, 'policy', 'bundle')}?version={version}")
    operator = admin.operator
    verify_untrusted(
        bundle,
        records[0],
        provider=provider_named("cryptography"),
        suite=operator.suite,
        policy_key=operator.policy_key,
        tenant=tenant,
        current_version=0,
    )
    return bundle


def _text(bundle: bytes) -> list[str]:
    """A policy as lines that can be compared: a line a grant, then the rules."""
    from kairos_node.policy.bundle import unpack_untrusted

    unpacked = unpack_untrusted(bundle)
    grants = json.loads(unpacked.data)["grants"]
    lines = [f"admission {json.dumps(rule, sort_keys=True)}" for rule in grants["admission"]]
    for kind in ("deny", "allow"):
        lines += [f"{kind} {json.dumps(grant, sort_keys=True)}" for grant in grants[kind]["list"]]
    for name, text in sorted(unpacked.rules.items()):
        lines += [f"{name}: {line}" for line in text.splitlines()]
    return lines
