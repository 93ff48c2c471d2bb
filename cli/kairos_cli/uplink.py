"""`kairos uplink ...`: ways out of VNIs, as each gateway last reported them. They are made in gateway.toml, on the gateway's host."""

from __future__ import annotations

import argparse
import time

from kairos.api.telemetry import SampleRecord
from kairos.errors import KairosError
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.output import as_fields, as_json, as_table


def listing(options: argparse.Namespace) -> None:
    found = _uplinks(options)
    if options.json:
        as_json(found)
    else:
        header = ("VNI", "GATEWAY", "MODE", "INTERFACE", "STATE", "AGE")
        nothing = "no gateway reported an uplink within the hour; `[[uplink]]` in its gateway.toml makes one"
        as_table(header, ([_shown(each, name) for name in map(str.lower, header)] for each in found), nothing)


def show(options: argparse.Namespace) -> None:
    """Of one VNI, at each gateway that has one."""
    found = [each for each in _uplinks(options) if each["vni"] == options.vni]
    if not found:
        raise KairosError(f"no gateway reported an uplink of {options.vni}; `kairos uplink list` shows those there are")
    if options.json:
        as_json(found)
        return
    for number, each in enumerate(found):
        print("" if number == 0 else "\n", end="")
        as_fields((name, _shown(each, name)) for name in each)


def _uplinks(options: argparse.Namespace) -> list[dict[str, object]]:
    records = client(options).pages(at(tenant_of(options), "telemetry"), SampleRecord)
    return [
        {"vni": uplink.vni, "gateway": record.node, "mode": uplink.mode, "interface": uplink.interface,
         "state": uplink.state, "age": max(0, int(time.time()) - record.at)}
        for record in records for uplink in record.sample.uplinks
    ]  # fmt: skip


def _shown(uplink: dict[str, object], name: str) -> str:
    return f"{uplink[name]} s" if name == "age" else str(uplink[name])
