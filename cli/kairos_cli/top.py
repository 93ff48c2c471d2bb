"""`kairos top`: how the nodes are doing, as each says of itself once a minute."""

from __future__ import annotations

import argparse
import time

from kairos.api.admin import Device
from kairos.api.telemetry import SampleRecord, TelemetryRecord
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.device import named
from kairos_cli.duration import seconds
from kairos_cli.output import as_json, as_table, moment

_HOME = "\x1b[H\x1b[J"
_DROPS_SHOWN = 2


def top(options: argparse.Namespace) -> None:
    if options.past:
        _past(options)
        return
    admin, tenant = client(options), tenant_of(options)
    only = named(options)[2] if options.device else ""
    names = {each.node: each.name for each in admin.pages(at(tenant, "devices"), Device)}
    while True:
        records = [each for each in admin.pages(at(tenant, "telemetry"), SampleRecord) if only in ("", each.node)]
        if options.json:
            as_json(records)
            return
        print("" if options.once else _HOME, end="")
        header = ("NODE", "NAME", "TUNNELS", "OUT", "IN", "DECISIONS", "SET-UPS", "DROPS", "LOAD", "POLICY", "AGE")
        rows = [_row(record, names.get(record.node, ""), time.time()) for record in records]
        as_table(header, rows, "no node has said anything within the hour")
        if options.once:
            return
        time.sleep(options.every)


def _past(options: argparse.Namespace) -> None:
    """Out of the fabric's records, by the time."""
    admin, tenant = client(options), tenant_of(options)
    query = {
        "by": options.by,
        "since": int(time.time()) - seconds("--past", options.past),
        "node": named(options)[2] if options.device else "",
    }
    records = admin.pages(at(tenant, "telemetry", "history"), TelemetryRecord, **query)
    if options.json:
        as_json(records)
        return
    names = {each.node: each.name for each in admin.pages(at(tenant, "devices"), Device)}
    header = ("AT", "NODE", "NAME", "TUNNELS", "OUT", "IN", "DECISIONS", "SET-UPS", "DROPS", "CPU", "MEMORY")
    rows = [(moment(each.at), each.node, names.get(each.node, ""), *_cells(each)) for each in records]
    nothing = "nothing yet: a minute is there some seconds after it, an hour after the next turn of the fabric's cron"
    as_table(header, rows, nothing)


def _cells(record: TelemetryRecord) -> tuple[str, ...]:
    return (
        f"{record.direct:.3g} direct, {record.relay:.3g} relay",
        _rate(record.tx_bytes_per_s),
        _rate(record.rx_bytes_per_s),
        f"{record.decisions} of {record.decision_ms:.2f} ms, up to {record.decision_ms_max:.2f}"
        if record.decisions
        else "",
        f"{record.handshakes} of {record.handshake_ms:.0f} ms" if record.handshakes else "",
        _worst(record.drops),
        f"{record.cpu:.1%}",
        f"{record.memory_bytes / 1e6:.0f} MB",
    )


def _worst(drops: dict[str, int]) -> str:
    worst = sorted(drops.items(), key=lambda each: -each[1])[:_DROPS_SHOWN]
    return ", ".join(f"{count} {reason}" for reason, count in worst)


def _row(record: SampleRecord, name: str, now: float) -> tuple[str, ...]:
    sample = record.sample
    return (
        record.node,
        name,
        f"{sample.direct} direct, {sample.relay} relay",
        _rate(sample.tx_bytes_per_s),
        _rate(sample.rx_bytes_per_s),
        f"{sample.decisions} of {sample.decision_ms:.2f} ms" if sample.decisions else "",
        f"{sample.handshakes} of {sample.handshake_ms:.0f} ms" if sample.handshakes else "",
        _worst(sample.drops),
        f"{sample.cpu:.1%}, {sample.memory_bytes / 1e6:.0f} MB",
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
