"""What a device costs a month at list prices, how near each part of the fabric is to its limit, and which is full first: arithmetic over the figures
of bench/fabric.py. `python -m bench.fabric --tables FILE` prints it as docs/design/0009 shows it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.fabric_routes import CHANGES_A_DAY, DAY_S, POLICIES_A_DAY, ROUTES
from bench.prices import (
    DAYS_A_MONTH,
    MESSAGES_A_CALL,
    OBJECT_GB,
    PRICES,
    QUEUE_OPERATIONS_A_MESSAGE,
)

SEAL_AFTER_S, SEGMENT_EVENTS = 20, 1_000  # of the audit log: what makes a new head
SWEEPS_A_DAY = DAY_S / 300  # of a tenant: the cron of wrangler.toml
D1_ROUND_TRIP_S = 0.005  # of a query, as an object waits for it in production; an assumption
GB = 1e9
_BEGIN, _END = "<!-- tables: ./dev bench fabric --tables bench/results/fabric.json -->", "<!-- end of tables -->"
Figures = Mapping[str, float]

# Of Cloudflare: what one object or one database takes.
OBJECT_CALLS_PER_S = 1_000  # soft limit of an object, durable-objects/reference/faq
OBJECT_MEMORY_MB = 128
DATABASE_BYTES = 10e9  # D1, and an object's SQLite
D1_QUERIES_AN_INVOCATION = 1_000
D1_QUERIES_PER_S = 1_000  # one after the other, a millisecond each: d1/platform/limits
QUEUE_MESSAGES_PER_S = 5_000  # queues/platform/limits

# The fabric that docs/design/0009 is about.
DEVICES, GATEWAYS, TENANTS = 100_000, 1_000, 10_000

AUDIT_KEPT_DAYS = 30  # in D1's index: what the operator chose
CERTIFICATES_KEPT_DAYS = 31  # their day, and 30 more before the fabric deletes them

USAGE = ("d1_queries", "d1_rows_read", "d1_rows_written", "object_calls", "object_rows_read", "object_rows_written", "worker_calls",
         "kv_reads", "kv_writes", "r2_reads", "r2_writes", "queue_sent", "d1_bytes", "object_bytes", "pushes", "push_bytes")  # fmt: skip


@dataclass(frozen=True)
class Day:
    """Of one device."""

    requests: float
    """That it makes."""
    cpu_s: float
    """CPU time of the fabric for them, and for its share of changes and heads."""
    octets: float
    """On its wire, both ways."""
    pushes: float
    """That it hears."""
    events: float
    """In the audit log because of it."""
    usage: Mapping[str, float]
    """Of the platform, by the names of workers/local/meter.mjs."""


def heads_a_day(events_a_day: float) -> float:
    """How often a tenant's log is sealed: so long after an event, or when a segment is full."""
    if events_a_day <= 0:
        return 0.0
    pause = SEAL_AFTER_S + DAY_S / events_a_day  # until the next event comes
    return DAY_S / min(pause, max(1.0, DAY_S * SEGMENT_EVENTS / events_a_day))


def day_of_a_device(figures: Figures, size: int, devices: int) -> Day:
    """In a tenant of `devices`, from what was measured with `size` devices in it."""
    own = {route.name: route.a_day for route in ROUTES}
    events = sum(count * figures.get(f"events_{name}_{size}", 0) for name, count in own.items())
    heads = heads_a_day(events * devices)
    counts = own | {
        "network_after_change": CHANGES_A_DAY * figures.get("requests_a_change", 1),
        "bundle": POLICIES_A_DAY * figures.get("requests_a_policy", 1),
        "consistency": heads * figures.get("requests_a_head", 1),
    }
    pushes = {"change": CHANGES_A_DAY, "head": heads}
    usage = dict.fromkeys(USAGE, 0.0)
    cpu, octets = 0.0, 0.0

    def add(name: str, count: float, share: float = 1.0) -> None:
        """share: how much of what it costs falls to this device."""
        nonlocal cpu, octets
        cpu += count * share * figures.get(f"cpu_us_{name}_{size}", 0) / 1e6
        octets += count * figures.get(f"bytes_{name}_{size}", 0)
        for unit in USAGE:
            usage[unit] += count * share * figures.get(f"{unit}_{name}_{size}", 0)

    for name, count in counts.items():
        add(name, count)
    add("sweep", SWEEPS_A_DAY, 1 / size)  # its work is by the device
    for name, count in pushes.items():
        # The whole of it is divided by the pushes that were measured, and borne by the devices there are.
        add(f"{name}_push", count, figures.get(f"pushes_a_{name}_{size}", devices) / devices)
    return Day(sum(counts.values()), cpu, octets, sum(pushes.values()), events, usage)


def d1_bytes_kept(figures: Figures, size: int, day: Day) -> float:
    """Of one device, after months."""
    event = figures.get("d1_bytes_an_event", 0)
    row = figures.get(f"d1_bytes_certificate_{size}", 0) - figures.get(f"events_certificate_{size}", 0) * event
    renewals = next(route.a_day for route in ROUTES if route.name == "certificate")
    certificates = max(0.0, row) * renewals * CERTIFICATES_KEPT_DAYS
    return figures.get("d1_bytes_a_device", 0) + day.events * AUDIT_KEPT_DAYS * event + certificates


def dollars_a_month(figures: Figures, size: int, day: Day, devices: int) -> dict[str, float]:
    """Of one device, by what is billed; the plan's included amounts are not taken off. size: of the tenant that was measured."""
    usage, month = day.usage, DAYS_A_MONTH
    # An object waits for D1, all the devices of a tenant share it, and hibernated sockets cost no duration.
    awake = min(day.cpu_s + usage["d1_queries"] * D1_ROUND_TRIP_S, DAY_S / devices)
    return {
        "Worker requests": usage["worker_calls"] * month * PRICES["worker_calls"],
        "Worker CPU": day.cpu_s / 2 * month * PRICES["worker_cpu_s"],  # the other half runs in objects, where duration is billed
        "object requests": usage["object_calls"] * month * PRICES["object_calls"],
        "object duration": awake * OBJECT_GB * month * PRICES["object_gb_s"],
        "object rows written": usage["object_rows_written"] * month * PRICES["object_rows_written"],
        "object rows read": usage["object_rows_read"] * month * PRICES["object_rows_read"],
        "D1 rows written": usage["d1_rows_written"] * month * PRICES["d1_rows_written"],
        "D1 rows read": usage["d1_rows_read"] * month * PRICES["d1_rows_read"],
        "queues": usage["queue_sent"] * QUEUE_OPERATIONS_A_MESSAGE * month * PRICES["queue_operations"],
        "KV and R2 operations": month * sum(usage[unit] * PRICES[unit] for unit in ("kv_reads", "kv_writes", "r2_reads", "r2_writes")),
        "storage": (
            d1_bytes_kept(figures, size, day) * PRICES["d1_gb_month"]
            + figures.get("object_bytes_a_device", 0) * PRICES["object_gb_month"]
        ) / GB,
    }  # fmt: skip


def dollars_a_relayed_gb(frame: int, frames_per_s: float) -> float:
    """Messages at 20 to one request, and the relay object's duration at full speed. There is no charge for egress."""
    frames = GB / frame
    return frames / MESSAGES_A_CALL * PRICES["object_calls"] + frames / frames_per_s * OBJECT_GB * PRICES["object_gb_s"]


def figures_of_storage(figures: Figures, small: int, large: int) -> Iterator[tuple[str, float, str]]:
    """(name, value, unit): what stays of a device and of an event."""
    for store in ("d1", "object"):
        grown = figures[f"{store}_bytes_{large}"] - figures[f"{store}_bytes_{small}"]
        yield f"{store}_bytes_a_device", grown / max(1, large - small), "bytes"
    events = figures.get(f"events_audit_{large}", 0)
    yield "d1_bytes_an_event", figures.get(f"d1_bytes_audit_{large}", 0) / events if events else 0.0, "bytes"
    yield "log_bytes_an_event", figures[f"log_bytes_an_event_{large}"], "bytes"


def figures_of_cost(figures: Figures, small: int, large: int) -> Iterator[tuple[str, float, str]]:
    """(name, value, unit) of what follows from the others. small, large: populations that were measured."""
    day = day_of_a_device(figures, large, large)
    yield "requests_per_s_core", day.requests / day.cpu_s, "requests/s of one core"
    yield "bytes_device_day", day.octets, "bytes a device and day"
    yield "requests_device_day", day.requests, "requests a device and day"
    yield "usd_per_device_month", sum(dollars_a_month(figures, large, day, large).values()), f"USD, tenant of {large}"
    few = day_of_a_device(figures, small, 10)
    dollars = sum(dollars_a_month(figures, small, few, 10).values())
    yield "usd_per_device_month_small_tenant", dollars, "USD, tenant of 10"
    relay = json.loads((Path(__file__).parent / "results/relay.json").read_text())["figures"]
    for name, frame, label in (("usd_per_relayed_gb", 65_536, "64k"), ("usd_per_relayed_gb_packets", 1_400, "1k4")):
        yield name, dollars_a_relayed_gb(frame, relay[f"relay_{label}_frames_per_s"]), f"USD, frames of {frame} bytes"


# -- tables of docs/design/0009 ----------------------------------------------------------------------------------------


def sizes_of(figures: Figures) -> list[int]:
    """Populations that were measured, smallest first."""
    ends = {name.removeprefix("cpu_us_posture_") for name in figures if name.startswith("cpu_us_posture_")}
    return sorted(int(end) for end in ends if end.isdecimal())


def tables(figures: Figures) -> str:
    """Markdown."""
    sizes = sizes_of(figures)
    makers = (_routes_table, _money_table, _limits_table, _fabric_table)
    return "\n\n".join(make(figures, sizes) for make in makers)


def page(text: str, figures: Figures) -> str:
    """docs/design/0009 with the tables of these figures in place of those it has."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{tables(figures)}\n{_END}{after}"


def _routes_table(figures: Figures, sizes: list[int]) -> str:
    small, large = sizes[0], sizes[-1]
    lines = [
        "### What one request costs",
        "",
        "| route | a day | " + " | ".join(f"CPU us, {size:,}" for size in sizes) + " | ratio | D1 queries | "
        f"D1 rows read, {small:,} | {large:,} | object rows written | bytes |",
        "|---|---|" + "---|" * (len(sizes) + 6),
    ]
    counts: dict[str, float | str] = {
        **{route.name: route.a_day for route in ROUTES},
        "network_after_change": CHANGES_A_DAY,
        "bundle": POLICIES_A_DAY,
        "consistency": "a head",
        "gateway_connect": "of a gateway",
        "gateway_network": "of a gateway",
        "change_push": "a push",
        "head_push": "a push",
        "sweep": "288 a tenant",
    }
    for name, count in counts.items():
        costs = [figures.get(f"cpu_us_{name}_{size}") for size in sizes]
        ratio = costs[-1] / costs[0] if costs[-1] and costs[0] else None
        cells = [
            f"`{name}`",
            count if isinstance(count, str) else _cell(count),
            *map(_cell, costs),
            _cell(ratio),
            *(_cell(figures.get(f"{unit}_{name}_{size}")) for unit, size in (
                ("d1_queries", large), ("d1_rows_read", small), ("d1_rows_read", large), ("object_rows_written", large), ("bytes", large))),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _money_table(figures: Figures, sizes: list[int]) -> str:
    """Dollars by what is billed, for three tenants."""
    large = sizes[-1]
    cases = [(sizes[0], 10), (sizes[0], 100), (large, large)]
    days = [day_of_a_device(figures, size, devices) for size, devices in cases]
    bills = [dollars_a_month(figures, size, day, devices) for day, (size, devices) in zip(days, cases, strict=True)]
    lines = [
        "### Dollars a device and month",
        "",
        "| | " + " | ".join(f"tenant of {devices:,}" for _, devices in cases) + " |",
        "|---|" + "---|" * len(cases),
        "| requests a day | " + " | ".join(f"{day.requests:,.0f}" for day in days) + " |",
        "| pushes a day | " + " | ".join(f"{day.pushes:,.0f}" for day in days) + " |",
        "| kB a day | " + " | ".join(f"{day.octets / 1e3:,.0f}" for day in days) + " |",
        "| CPU s a day | " + " | ".join(f"{day.cpu_s:,.3g}" for day in days) + " |",
    ]
    for what in bills[0]:
        lines.append(f"| {what} | " + " | ".join(f"{bill[what]:.4f}" for bill in bills) + " |")
    lines.append("| **all** | " + " | ".join(f"**{sum(bill.values()):.4f}**" for bill in bills) + " |")
    return "\n".join(lines)


def _limits_table(figures: Figures, sizes: list[int]) -> str:
    """What a Tenant object, D1 and the rest hold, at the largest population, and how many devices fill each."""
    large = sizes[-1]
    day = day_of_a_device(figures, large, large)
    calls = day.usage["object_calls"] / DAY_S
    d1_bytes = figures.get("d1_bytes_a_device", 0) + day.events * AUDIT_KEPT_DAYS * figures.get("d1_bytes_an_event", 0)
    sockets = figures.get(f"object_memory_mb_{large}_sockets", 0) / large
    rows = [
        ("one Tenant object's CPU", f"{day.cpu_s * large / DAY_S:.2g} cores", "1 core", DAY_S / day.cpu_s if day.cpu_s else 0),
        ("one Tenant object's requests", f"{calls * large:,.3g}/s", f"{OBJECT_CALLS_PER_S:,}/s", OBJECT_CALLS_PER_S / calls if calls else 0),
        ("one Tenant object's memory, all sockets open", f"{sockets * large:,.0f} MB", f"{OBJECT_MEMORY_MB} MB",
         OBJECT_MEMORY_MB / sockets if sockets else 0),
        ("one Tenant object's SQLite", f"{figures.get('object_bytes_a_device', 0) * large / 1e6:,.0f} MB", "10 GB",
         _fill(DATABASE_BYTES, figures.get("object_bytes_a_device", 0))),
        ("its audit log's tree, a year", f"{figures.get('log_bytes_an_event', 0) * day.events * 365 * large / 1e9:,.1f} GB", "10 GB",
         _fill(DATABASE_BYTES, figures.get("log_bytes_an_event", 0) * day.events * 365)),
        ("one D1 database, after months", f"{d1_bytes * large / 1e9:,.2f} GB", "10 GB", _fill(DATABASE_BYTES, d1_bytes)),
        ("D1 queries an invocation", f"{figures.get('d1_queries_max', 0):,.0f}", f"{D1_QUERIES_AN_INVOCATION:,}", None),
    ]  # fmt: skip
    lines = [
        "### How far each part is from its limit",
        "",
        f"| part | at {large:,} devices | limit | full at so many devices |",
        "|---|---|---|---|",
        *(
            f"| {what} | {used} | {limit} | {'' if full is None else f'{full:,.0f}'} |"
            for what, used, limit, full in rows
        ),
    ]
    filled = [(full, what) for what, _, _, full in rows if full]
    if filled:
        full, what = min(filled)
        lines += ["", f"Saturates first: {what}, at {full:,.0f} devices."]
    return "\n".join(lines)


def _fabric_table(figures: Figures, sizes: list[int]) -> str:
    """All tenants together, each with the devices that fall to it."""
    each = DEVICES // TENANTS
    day = day_of_a_device(figures, sizes[0], each)
    bill = sum(dollars_a_month(figures, sizes[0], day, each).values())
    d1_bytes = DEVICES * d1_bytes_kept(figures, sizes[0], day)

    def per_s(a_day: float) -> float:
        return a_day * DEVICES / DAY_S

    heard = sum(
        route.a_day * figures.get(f"push_bytes_{route.name}_{sizes[0]}", 0)
        for route in ROUTES
        if route.name != "events_connect"
    )
    queries, messages = per_s(day.usage["d1_queries"]), per_s(day.usage["queue_sent"])
    rows = [
        ("requests", f"{per_s(day.requests):,.0f}/s", "Workers have none"),
        ("CPU", f"{per_s(day.cpu_s):,.1f} cores", "spread over isolates by Cloudflare"),
        ("D1 queries", f"{queries:,.0f}/s", f"{D1_QUERIES_PER_S:,}/s a database of 1 ms queries: {_shards(queries, D1_QUERIES_PER_S)}"),
        ("D1 storage", f"{d1_bytes / GB:,.0f} GB", f"10 GB a database: {_shards(d1_bytes, DATABASE_BYTES)}"),
        ("queue messages", f"{messages:,.0f}/s", f"{QUEUE_MESSAGES_PER_S:,}/s a queue: {_shards(messages, QUEUE_MESSAGES_PER_S, 'queue')}"),
        ("what a gateway of " + f"{DEVICES // GATEWAYS} devices hears", f"{heard * DEVICES / GATEWAYS / 1e6:,.0f} MB a day", "pushes are not billed"),
        ("dollars a month", f"{bill * DEVICES:,.0f}", ""),
    ]  # fmt: skip
    return "\n".join(
        [
            f"### {DEVICES:,} devices, {GATEWAYS:,} gateways, {TENANTS:,} tenants",
            "",
            "| | all together | limit |",
            "|---|---|---|",
            *(f"| {what} | {used} | {limit} |" for what, used, limit in rows),
        ]
    )


def _shards(used: float, limit: float, what: str = "database") -> str:
    count = max(1, math.ceil(used / limit))
    return f"{count} {what}{'s' if count > 1 else ''}"


def _fill(limit: float, each: float) -> float:
    return limit / each if each else 0.0


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
