"""What nodes ask of the fabric in steady state, how often a day, and what one of each costs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from bench.fabric_devices import Device
from bench.fabric_site import MODEL, Site
from kairos.api.admin import GatewayRank
from kairos.api.problem import ProblemError
from kairos.api.session import Introspection
from kairos.constants import CERTIFICATE_LIFE_S, CERTIFICATE_RENEW_AT, POSTURE_EVERY_S, SESSION_RENEW_AT_S

DAY_S = 86_400
STARTS_A_DAY = 2  # of a device: it is switched on, or its network comes back
EVENTS_A_BATCH = 5
BATCHES_A_DAY = 20
CHANGES_A_DAY = 10  # of a tenant's network
POLICIES_A_DAY = 1
_CALLS, _QUICK_CALLS = 100, 6
_WARM_CALLS = 3
_INFORMED = 20  # devices that have the network: the whole of a large one takes seconds
_QUICK_SINGLE_CALLS = 4
_AT_ONCE = 2  # so that the next request is signed while the fabric is at work
_ROUTE_S = 8.0  # a slow route is measured with fewer calls
_TRIES = 3  # to measure a route between two heads of the log
_OWN_PUSHES = 10  # a call causes fewer; more of them are of something else


@dataclass(frozen=True)
class Route:
    """One kind of request, as a device makes it in steady state."""

    name: str
    """Part of the figures' names."""
    call: Callable[[Site, Device], Awaitable[None]]
    """Makes one."""
    a_day: float = 0.0
    """How many of them a device makes a day, without those that follow pushes."""
    knows_network: bool = False
    """Few devices make it, each of which has fetched the network before."""
    by_gateway: bool = False
    """The gateway makes it, and its answer is about all endpoints."""


async def _events_connect(site: Site, device: Device) -> None:
    await device.disconnect()  # else the fabric has two sockets to see to
    await device.connect()


async def _introspect(site: Site, device: Device) -> None:
    if device.session is None:
        await device.open_session()
    assert device.session is not None
    body = msgspec.json.encode(Introspection(device.session.token, device.session.gateways[0].gateway))
    await site.ask_internal("introspect", "introspection", device.member.tenant, body)


async def _consistency(site: Site, device: Device) -> None:
    size = await site.log_size(device.member.tenant)
    if size > 1:
        await device.check_head(max(1, size - 100), size)


ROUTES = (
    Route("session_open", lambda _, device: device.open_session(), STARTS_A_DAY),
    Route("session_renew", lambda _, device: device.renew_session(), DAY_S / SESSION_RENEW_AT_S),
    Route("introspect", _introspect, STARTS_A_DAY),
    Route("posture", lambda _, device: device.report_posture(), DAY_S / POSTURE_EVERY_S),
    Route("telemetry", lambda _, device: device.send_sample(), DAY_S / 60),
    Route("audit", lambda _, device: device.send_events(EVENTS_A_BATCH), BATCHES_A_DAY),
    Route("network", lambda _, device: device.fetch_network(), STARTS_A_DAY, knows_network=True),
    Route("network_after_change", lambda _, device: device.fetch_network(), knows_network=True),
    Route("policy", lambda _, device: device.fetch_policy(), STARTS_A_DAY),
    Route("bundle", lambda _, device: device.fetch_bundle()),
    Route("events_connect", _events_connect, STARTS_A_DAY),
    Route("certificate", lambda _, device: device.renew_certificate(), DAY_S / (CERTIFICATE_LIFE_S * CERTIFICATE_RENEW_AT)),
    Route("consistency", _consistency),
    Route("gateway_connect", _events_connect, by_gateway=True),
    Route("gateway_network", lambda _, device: device.fetch_network(), by_gateway=True),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one request, or one push: what was done for it until all was quiet again."""

    cpu_us: float
    """CPU time of workerd, microseconds."""
    octets: float
    """On the wire of the devices, both ways."""
    events: float
    """By which the audit log grew."""
    usage: Mapping[str, float]
    """What it used of the platform: the names of workers/local/meter.mjs."""


async def measure(site: Site, route: Route, quick: bool) -> Cost:
    """The mean over many calls, by devices in turn. The log is sealed before and after, so that no alarm falls between."""
    callers = [site.gateway] if route.by_gateway else site.active[:_INFORMED] if route.knows_network else site.active
    turns = itertools.cycle(callers)
    if route.knows_network:
        for device in callers:
            await device.fetch_network()
    if route.name not in site.warm and not quick:
        site.warm.add(route.name)
        for _ in range(_WARM_CALLS):
            await route.call(site, next(turns))
        await site.seal()
    for _ in range(_TRIES):
        if route.name == "network_after_change":
            await change(site)
            await site.seal()
        cost = await _measured(site, lambda: _calls(site, route, turns, quick))
        if route.by_gateway or cost.usage["pushes"] < _OWN_PUSHES:
            break  # else the alarm sealed a head meanwhile and pushed it to all, which is measured by itself
    return cost


async def change(site: Site) -> None:
    """One change of the tenant's network: the gateway has another weight."""
    rank = GatewayRank(100, site.next_weight())
    await asyncio.to_thread(site.host.admin, "PUT", f"/{MODEL}/gateways/{site.gateway.member.node}", rank)


async def measure_change(site: Site) -> tuple[Cost, Cost]:
    """(of one change with its pushes, of one push of it)."""

    async def work() -> int:
        await _pushed(site, change(site))
        return 1

    whole = await _measured(site, work)
    return whole, _each(whole)


async def measure_sweep(site: Site) -> Cost:
    """Of one sweep with nothing to seal, as the cron asks for it."""

    async def work() -> int:
        await asyncio.to_thread(site.host.sweep, MODEL)
        return 1

    return await _measured(site, work)


async def measure_head(site: Site, sweep: Cost) -> tuple[Cost, Cost]:
    """(of sealing one event with its pushes, of one push of the head). sweep: what is not the sealing."""

    async def work() -> int:
        await _pushed(site, asyncio.to_thread(site.host.sweep, MODEL))
        return 1

    await site.active[0].send_events(1)
    both = await _measured(site, work)
    usage = {name: max(0.0, value - sweep.usage[name]) for name, value in both.usage.items()}
    whole = Cost(max(0.0, both.cpu_us - sweep.cpu_us), both.octets, 0, usage)
    return whole, _each(whole)


async def _pushed(site: Site, work: Awaitable[None]) -> None:
    """Does it, and waits until all connected nodes have heard of it: event shards push after the call was answered."""
    taken = site.pushes_taken()
    await work
    await site.all_taken(taken, sum(each.connected for each in [*site.connected, site.gateway]))


def _each(whole: Cost) -> Cost:
    count = max(whole.usage["pushes"], 1)
    return Cost(
        whole.cpu_us / count, whole.octets / count, 0, {name: value / count for name, value in whole.usage.items()}
    )


async def _calls(site: Site, route: Route, turns: Iterator[Device], quick: bool) -> int:
    """Makes them; how many."""
    most = _INFORMED if route.name == "network_after_change" else _CALLS  # each device hears of a change once
    deadline, left = time.monotonic() + _ROUTE_S, _QUICK_CALLS if quick else most
    done = 0

    async def work() -> None:
        nonlocal left, done
        while left and time.monotonic() < deadline:
            left -= 1
            await route.call(site, next(turns))
            done += 1

    await asyncio.gather(*(work() for _ in range(1 if route.by_gateway else _AT_ONCE)))  # there is one gateway
    return done


async def _measured(site: Site, work: Callable[[], Awaitable[int]]) -> Cost:
    """work: returns how many calls it made."""
    usage, cpu, octets = await site.settled(), site.cpu_s(), site.wire.octets
    log = site.log
    count = await work()
    after = await site.settled()
    cpu, octets = site.cpu_s() - cpu, site.wire.octets - octets
    events = await site.seal() - log
    grown = {name: (value - usage[name]) / count for name, value in after.items()}
    return Cost(cpu * 1e6 / count, octets / count, events / count, grown)


async def most_queries(site: Site, quick: bool) -> list[tuple[str, int, str]]:
    """(call, D1 queries, why it failed) of single calls of a node and of the operator. The queues are at rest before each."""
    counted = []
    for name, call in itertools.islice(_single_calls(site), _QUICK_SINGLE_CALLS if quick else None):
        before, failure = await site.settled(), ""
        try:
            await call()
        except (ConnectionError, ProblemError, TimeoutError, OSError) as error:
            failure = str(error).splitlines()[0] if str(error) else type(error).__name__
        counted.append((name, site.usage()["d1_queries"] - before["d1_queries"], failure))
    return counted


def _single_calls(site: Site) -> Iterator[tuple[str, Callable[[], Awaitable[Any]]]]:
    for route in ROUTES:
        yield route.name, partial(route.call, site, site.gateway if route.by_gateway else site.active[0])
    node, other = (site.devices[number].member.node for number in (3, 4))
    vni = {"name": "few", "prefixes": ["10.99.0.0/16"]}
    everyone = {"name": "office", "prefixes": ["10.64.0.0/14", "fd07::/64"], "dns_suffix": "office.internal"}
    calls: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/devices?limit=1000", None),
        ("GET", f"/devices/{node}", None),
        ("GET", "/vnis", None),
        ("POST", "/vnis", vni),
        ("PUT", f"/vnis/few/members/{node}", {}),
        ("DELETE", f"/vnis/few/members/{node}", None),
        ("DELETE", "/vnis/few", None),
        ("POST", f"/devices/{node}/isolate", {"reason": "bench"}),
        ("POST", f"/devices/{node}/release", {"reason": "bench"}),
        ("DELETE", f"/devices/{other}", None),
        ("GET", "/telemetry", None),
        ("GET", "/audit", None),
        ("PUT", "/vnis/office", everyone),  # last: it may still be at work when we have given up
    )
    yield "sweep", partial(asyncio.to_thread, site.host.sweep, MODEL)
    for method, path, body in calls:
        name = f"{method} {path.replace(node, '{node}').replace(other, '{node}')}"
        yield name, partial(asyncio.to_thread, site.host.admin, method, f"/{MODEL}{path}", body)
