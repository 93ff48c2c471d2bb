"""`kairos top`: how the nodes are doing, as each says of itself once a minute."""

from __future__ import annotations

import argparse
import time

from kairos.api.admin import Device
from kairos.api.telemetry import SampleRecord
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.output import as_json, as_table

_HOME = "\x1b[H\x1b[J"
_DROPS_SHOWN = 2


def top(options: argparse.Namespace) -> None:
    admin, tenant = client(options), tenant_of(options)
    names = {each.node: each.name for each in admin.pages(at(tenant, "devices"), Device)}
    while True:
        records = admin.pages(at(tenant, "telemetry"), SampleRecord)
        if options.json:
            as_json(records)
            return
        print("" if options.once else _HOME, end="")
        header = ("NODE", "NAME", "TUNNELS", "OUT", "IN", "DECISIONS", "SET-UPS", "DROPS", "POLICY", "AGE")
        rows = [_row(record, names.get(record.node, ""), time.time()) for record in records]
        as_table(header, rows, "no node has said anything within the hour")
        if options.once:
            return
        time.sleep(options.every)


def _row(record: SampleRecord, name: str, now: float) -> tuple[str, ...]:
    sample = record.sample
    worst = sorted(sample.drops.items(), key=lambda each: -each[1])[:_DROPS_SHOWN]
    return (
        record.node,
        name,
        f"{sample.direct} direct, {sample.relay} relay",
        _rate(sample.tx_bytes_per_s),
        _rate(sample.rx_bytes_per_s),
        f"{sample.decisions} of {sample.decision_ms:.2f} ms" if sample.decisions else "",
        f"{sample.handshakes} of {sample.handshake_ms:.0f} ms" if sample.handshakes else "",
        ", ".join(f"{count} {reason}" for reason, count in worst),
        str(sample.policy_version),
        f"{max(0, int(now - record.at))} s",
    )


def _rate(bytes_per_s: float) -> str:
    bits = bytes_per_s * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits < 1000:
            return f"{bits:.3g} {unit}"
        bits /= 1000
    return f"{bits:.3g} Gbit/s"
