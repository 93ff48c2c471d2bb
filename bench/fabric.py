"""The control plane at size: what each request of a node costs with 100 and with 10,000 devices in the tenant, and a device a month.

A real fabric in workerd, a population written into its state (bench/fabric_population.py), simulated devices that speak the real
protocol (bench/fabric_devices.py), and counters of all that the Workers ask of the platform (workers/local/meter.mjs). All devices
hold their events sockets open while one route after the other is measured, by the CPU time of workerd.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.fabric_cost import USAGE, figures_of_cost, figures_of_storage, page
from bench.fabric_reactions import reactions
from bench.fabric_routes import ROUTES, Cost, measure, measure_change, measure_head, measure_sweep, most_queries
from bench.fabric_site import MODEL, Model, Site
from bench.fabric_strangers import QUICK_STORM_S, STORM_S, storage_of_strangers
from bench.rounds import Rounds
from fabric_host import running_fabric
from kairos.api.problem import ProblemError

_SIZES, _QUICK_SIZES = (100, 1_000, 10_000), (10, 20)
_TENANTS, _QUICK_TENANTS = 1_000, 5
_QUICK_ROUTES = ("session_open", "posture")  # of many tenants
_DEVICES_A_TENANT = 10
# What changes the first tenant, and what only it has.
_NOT_OF_TENANTS = ("network_after_change", "bundle", "gateway_connect", "gateway_network")
_PAGE = Path(__file__).parents[1] / "docs/design/0009-size-on-paper.md"
_FAILURES = (ConnectionError, ProblemError, RuntimeError, TimeoutError, ExceptionGroup)
_NOISE_ROWS = 5  # a route that reads fewer rows of D1 has no ratio worth telling


def main() -> None:
    if sys.argv[1:2] == ["--tables"]:
        figures = json.loads(Path(sys.argv[2]).read_text())["figures"]
        _PAGE.write_text(page(_PAGE.read_text(), figures))
        return
    rounds = Rounds("fabric", __doc__, options=_options)
    sizes: tuple[int, ...] = tuple(rounds.options.sizes or (_QUICK_SIZES if rounds.quick else _SIZES))
    small, large = min(sizes), max(sizes)
    with tempfile.TemporaryDirectory() as folder, running_fabric(Path(folder) / "fabric", meter=True) as host:
        host.expect_fault("")  # they are a figure here
        model = Model(host, Path(folder))
        for size in sizes:
            asyncio.run(_one_tenant(rounds, model, size, small, large))
            rounds.save()
        if tenants := _tenants(rounds):
            asyncio.run(_many_tenants(rounds, model, tenants))
    for figure, value, unit in figures_of_storage(rounds.document()["figures"], small, large):
        rounds.add(figure, value, unit)
    figures = rounds.document()["figures"]
    rounds.add("pushes_a_change", figures.get(f"pushes_a_change_{large}", 0), f"pushes, {large} devices")
    rounds.add("limit_breaches", sum(figures[f"limit_breaches_{size}"] for size in sizes), "breaches, all populations")
    rounds.add(f"cost_ratio_{large}_to_{small}", _worst_ratio(rounds, figures, small, large), "worst of all routes")
    for figure, value, unit in figures_of_cost(figures, small, large):
        rounds.add(figure, value, unit)
    rounds.finish()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", help="devices in the tenant, in place of 100, 1000 and 10000")
    parser.add_argument("--tenants", type=int, metavar="N", help="tenants of 10 devices, in place of 1000; 0: none")
    parser.add_argument("--tables", metavar="FILE", help="only put the tables of such a file into docs/design/0009")


# -- one tenant, so many devices ---------------------------------------------------------------------------------------


async def _one_tenant(rounds: Rounds, model: Model, size: int, smallest: int, largest: int) -> None:
    rounds.say(f"a tenant of {size:,} devices")
    async with model.of_devices(size) as site:
        await _connect(rounds, site, size)
        rounds.add(f"d1_bytes_{size}", site.usage()["d1_bytes"], "bytes of D1")
        rounds.add(f"object_bytes_{size}", site.usage()["object_bytes"], "bytes of the object's SQLite")
        rounds.add(f"log_bytes_an_event_{size}", site.log_bytes_an_event, "bytes")
        for _ in itertools.islice(rounds, None if size in (smallest, largest) else 1):
            for route in ROUTES:
                try:
                    _add(rounds, route.name, size, await measure(site, route, rounds.quick))
                except _FAILURES as error:
                    rounds.missing(f"{route.name}_{size}", _line(error))
            await _pushes(rounds, site, size)
            rounds.save()
        if size == smallest:
            await _reactions(rounds, site, model)
        if size == largest:
            await _strangers(rounds, site)
            await _queries(rounds, site)
        breaches = [fault for fault in model.host.fabric.faults() if fault.kind == "limit"]
        for each in {str(breach) for breach in breaches}:
            rounds.say(each)
        rounds.add(f"limit_breaches_{size}", len(breaches), "breaches")


async def _connect(rounds: Rounds, site: Site, size: int) -> None:
    """All events sockets; what they take of memory, once the interpreter has done some work."""
    for device in site.active[:10]:
        await device.connect()
        await device.report_posture()
        await device.disconnect()
    await asyncio.to_thread(site.host.sweep, MODEL)  # chooses where the sockets of so many devices belong
    resident, isolate, cpu = site.resident_bytes(), await site.isolate_bytes(), site.cpu_s()
    try:
        opened = await site.connect()
    except _FAILURES as error:
        rounds.missing(f"sockets_{size}", _line(error))
        return
    await site.seal()
    if opened < size:
        rounds.say(f"{opened:,} of {size:,} events sockets are open, as many as the limit on open files admits")
    rounds.add(f"sockets_{size}", opened, "events sockets open")
    rounds.add(f"connect_cpu_ms_a_socket_{size}", (site.cpu_s() - cpu) * 1e3 / opened, "ms of CPU")
    after = await site.isolate_bytes()
    rounds.add(f"socket_bytes_{size}", (after - isolate) / opened, "bytes of the isolate's memory a socket")
    whole = after + (size - opened) * (after - isolate) / opened
    rounds.add(f"object_memory_mb_{size}_sockets", whole / 1e6, "MB, all of the isolate, garbage collected")
    rounds.add(f"resident_mb_{size}_sockets", (site.resident_bytes() - resident) / 1e6, "MB more of workerd's RSS")


async def _pushes(rounds: Rounds, site: Site, size: int) -> None:
    try:
        sweep = await measure_sweep(site)
        measured = {"change": await measure_change(site), "head": await measure_head(site, sweep)}
    except _FAILURES as error:
        rounds.missing(f"pushes_{size}", _line(error))
        return
    _add(rounds, "sweep", size, sweep)
    for name, (whole, each) in measured.items():
        _add(rounds, f"{name}_push", size, each)
        rounds.add(f"cpu_ms_{name}_{size}", whole.cpu_us / 1e3, f"ms, one {name} with its pushes")
        rounds.add(f"pushes_a_{name}_{size}", whole.usage["pushes"], "pushes")


async def _reactions(rounds: Rounds, site: Site, model: Model) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            asked = await reactions(site, model.identity, Path(folder))
        except _FAILURES as error:
            rounds.missing("reactions", _line(error))
            return
    for what, requests in asked.items():
        rounds.add(f"requests_a_{what}", requests, f"requests of one node after one {what}")


async def _queries(rounds: Rounds, site: Site) -> None:
    """The whole of each call, alone: nodes' routes and the operator's."""
    most = 0
    for name, count, failure in await most_queries(site, rounds.quick):
        if failure:
            rounds.missing(f"d1_queries of {name}", failure)
        most = max(most, count)
        if count > 50:
            rounds.say(f"{name}: {count} D1 queries")
    rounds.add("d1_queries_max", most, "queries of one call")


async def _strangers(rounds: Rounds, site: Site) -> None:
    seconds = QUICK_STORM_S if rounds.quick else STORM_S
    worst = 0.0
    for name, one_source in (("one_source", True), ("many_sources", False)):
        try:
            stored, answers = await storage_of_strangers(site, seconds, one_source)
        except _FAILURES as error:
            rounds.missing(f"strangers_{name}", _line(error))
            continue
        rounds.say(f"strangers, {name}: answers by status {dict(sorted(answers.items()))}")
        rounds.add(f"unauthenticated_bytes_stored_per_day_{name}", stored, "bytes a day")
        worst = max(worst, stored)
    rounds.add("unauthenticated_bytes_stored_per_day", worst, "bytes a day, all public routes at once")


# -- many tenants ------------------------------------------------------------------------------------------------------


def _tenants(rounds: Rounds) -> int:
    wanted: int | None = rounds.options.tenants
    return wanted if wanted is not None else _QUICK_TENANTS if rounds.quick else _TENANTS


async def _many_tenants(rounds: Rounds, model: Model, tenants: int) -> None:
    rounds.say(f"{tenants:,} tenants of {_DEVICES_A_TENANT} devices")
    async with model.of_tenants(tenants, _DEVICES_A_TENANT) as site:
        isolate = await site.isolate_bytes()
        for device in site.devices[::_DEVICES_A_TENANT]:
            await device.open_session()  # its tenant's object is there from now on
        count = site.usage()["objects"]
        rounds.add("object_memory_mb_a_tenant", (await site.isolate_bytes() - isolate) / 1e6 / max(1, count), "MB")
        for _ in rounds:
            for route in ROUTES:
                if route.name in _NOT_OF_TENANTS or (rounds.quick and route.name not in _QUICK_ROUTES):
                    continue
                try:
                    _add(rounds, route.name, "tenants", await measure(site, route, rounds.quick))
                except _FAILURES as error:
                    rounds.missing(f"{route.name}_tenants", _line(error))


# -- figures -----------------------------------------------------------------------------------------------------------


def _add(rounds: Rounds, name: str, population: int | str, cost: Cost) -> None:
    rounds.add(f"cpu_us_{name}_{population}", cost.cpu_us, "us of workerd")
    rounds.add(f"bytes_{name}_{population}", cost.octets, "bytes on the wire")
    rounds.add(f"events_{name}_{population}", cost.events, "audit events")
    for unit in USAGE:
        if used := cost.usage.get(unit, 0):
            rounds.add(f"{unit}_{name}_{population}", used, unit.replace("_", " "))


def _worst_ratio(rounds: Rounds, figures: dict[str, float], small: int, large: int) -> float:
    """CPU, and rows that D1 read, of one request among many devices to one among few."""
    ratios = sorted(_ratios(figures, small, large), reverse=True)
    for ratio, name in ratios[:5]:
        rounds.say(f"{name}: {ratio:.2f} times as much at {large:,} devices as at {small:,}")
    return ratios[0][0]


def _ratios(figures: dict[str, float], small: int, large: int) -> Iterator[tuple[float, str]]:
    for route in (*(route.name for route in ROUTES if not route.by_gateway), "change_push", "head_push"):
        for unit, least in (("cpu_us", 0), ("d1_rows_read", _NOISE_ROWS)):
            few, many = (figures.get(f"{unit}_{route}_{size}", 0) for size in (small, large))
            if few > 0 and many > least:
                yield many / few, f"{unit} {route}"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


if __name__ == "__main__":
    main()
