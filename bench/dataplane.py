"""The data plane beside its peers: throughput, small packets, latency, loss and CPU, in network namespaces of one host.

Links: the bare veth pair, wireguard-go, boringtun, nebula, OpenVPN, two engines of ours by direct UDP, with ipsec-mb and with
OpenSSL, and the product's daemons through a relay and direct. Every round measures every row on every link before the next
begins. iperf3 runs on the same cores as the tunnels.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from bench import peers, traffic
from bench.link import Absent, Link
from bench.product import Product, engines, product
from bench.rounds import Rounds

RAW, WIREGUARD, KAIROS, OPENSSL = "raw", "wireguard_go", "kairos", "kairos_openssl"
PEERS = (WIREGUARD, "boringtun", "nebula", "openvpn")
LINKS: dict[str, Callable[[], AbstractContextManager[Link]]] = {
    RAW: peers.raw,
    WIREGUARD: peers.wireguard_go,
    "boringtun": peers.boringtun,
    "nebula": peers.nebula,
    "openvpn": peers.openvpn,
    KAIROS: partial(engines, "auto"),
    OPENSSL: partial(engines, "openssl"),
}
_SECONDS, _QUICK_SECONDS, _LONGER = 2, 1, 1
_CONNECTIONS = 10_000
_DELAY_MS = 20
_REKEY_S, _REKEY_TURNS, _REKEY_IDLE_S = 1.0, 3, 4.0
Values = dict[str, float]
Figures = Iterator[tuple[str, float, str]]  # name, value, unit


def main() -> None:
    rounds = Rounds("dataplane", __doc__, options=_options)
    if shutil.which("iperf3") is None:
        raise SystemExit("bench dataplane: iperf3 makes the traffic: apt install iperf3")
    with ExitStack() as stack:
        links = _links(rounds, stack)
        whole = stack.enter_context(product()) if _wanted(rounds, PRODUCT) else None
        found: dict[str, Values] = {name: {} for name in links}
        for _ in rounds:
            for name, link in links.items():
                found[name] = _measure(rounds, name, link, found[name])
            for figure in _ratios(found):
                rounds.add(*figure)
            if whole is not None:
                rounds.attempt(PRODUCT, _product(whole, _seconds(rounds) + _LONGER))
    rounds.finish(_pictures())


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=(*ROWS, PRODUCT), help="only these: %(choices)s")
    parser.add_argument("--links", nargs="+", metavar="LINK", choices=LINKS, help="only these: %(choices)s")


def _wanted(rounds: Rounds, row: str) -> bool:
    return row in (rounds.options.rows or (*ROWS, PRODUCT))


def _seconds(rounds: Rounds) -> int:
    return _QUICK_SECONDS if rounds.quick else _SECONDS


def _links(rounds: Rounds, stack: ExitStack) -> dict[str, Link]:
    """All that can be had here, up, each with an iperf3 server."""
    links = {}
    for name in rounds.options.links or LINKS:
        try:
            link = stack.enter_context(LINKS[name]())
        except (Absent, RuntimeError) as reason:  # not here, or it does not come up
            rounds.missing(name, str(reason))
            continue
        stack.enter_context(traffic.iperf_server(link))
        links[name] = link
    return links


def _measure(rounds: Rounds, name: str, link: Link, found: Values) -> Values:
    """found: the round before, where the search for the highest rate of datagrams begins."""
    rows = [row for row in _rows_of(name) if _wanted(rounds, row)]
    measured: Values = {}
    for row in rows:
        figures = ROWS[row](link, _seconds(rounds), found)
        measured |= rounds.attempt(f"{name} {row}", figures, f"{name}_")
    return measured


def _rows_of(name: str) -> tuple[str, ...]:
    """OpenSSL is there for machines without ipsec-mb, and the veth has nothing under it to lose datagrams."""
    if name == OPENSSL:
        return ("tcp1",)
    return tuple(row for row in ROWS if name != RAW or not row.startswith("loss"))


def _tcp1(link: Link, seconds: int, found: Values) -> Figures:
    rate, (cpu_a, cpu_b) = traffic.tcp_with_cost(link, seconds + _LONGER)
    yield "tcp1_gbit", rate, "Gbit/s"
    if any(link.processes):
        yield "cpu_sender_s_a_gb", cpu_a, "CPU s/GB"
        yield "cpu_receiver_s_a_gb", cpu_b, "CPU s/GB"
        resident_a, resident_b = link.resident_mb()
        yield "rss_sender_mb", resident_a, "MB resident"
        yield "rss_receiver_mb", resident_b, "MB resident"


def _tcp4(link: Link, seconds: int, found: Values) -> Figures:
    yield "tcp4_gbit", traffic.tcp_gbit(link, seconds, "-P 4"), "Gbit/s"


def _bidir(link: Link, seconds: int, found: Values) -> Figures:
    yield "bidir_gbit", traffic.tcp_gbit(link, seconds, "--bidir"), "Gbit/s"


def _udp1200(link: Link, seconds: int, found: Values) -> Figures:
    yield "udp1200_kpps", traffic.udp_kpps(link, 1200, found.get("udp1200_kpps", 0)), "1000/s"


def _udp64(link: Link, seconds: int, found: Values) -> Figures:
    yield "udp64_kpps", traffic.udp_kpps(link, 64, found.get("udp64_kpps", 0)), "1000/s"


def _ping(link: Link, seconds: int, found: Values) -> Figures:
    yield "ping_ms", traffic.ping_ms(link), "ms"


def _ping_loaded(link: Link, seconds: int, found: Values) -> Figures:
    yield "ping_loaded_ms", traffic.loaded_ping_ms(link), "ms"


def _loss(link: Link, seconds: int, found: Values) -> Figures:
    for name, per_mille in (("loss1pct", 10), ("loss01pct", 1)):
        with traffic.lossy(link, per_mille):
            yield f"{name}_gbit", traffic.tcp_gbit(link, seconds), "Gbit/s"


def _loss_far(link: Link, seconds: int, found: Values) -> Figures:
    for name, per_mille in (("loss1pct", 10), ("loss01pct", 1)):
        with traffic.lossy(link, per_mille), traffic.late(link, _DELAY_MS):
            yield f"{name}_{_DELAY_MS}ms_gbit", traffic.tcp_gbit(link, seconds), "Gbit/s"


def _flows10k(link: Link, seconds: int, found: Values) -> Figures:
    yield "flows10k_gbit", traffic.transfers_gbit(link, _CONNECTIONS, seconds), "Gbit/s"


ROWS: dict[str, Callable[[Link, int, Values], Figures]] = {
    "tcp1": _tcp1,
    "tcp4": _tcp4,
    "bidir": _bidir,
    "udp1200": _udp1200,
    "udp64": _udp64,
    "ping": _ping,
    "ping_loaded": _ping_loaded,
    "loss": _loss,
    "loss_20ms": _loss_far,
    "flows10k": _flows10k,
}
PRODUCT = "product"


def _pictures() -> dict[str, dict[str, str]]:
    titles = {
        "tcp1_gbit": "one TCP flow",
        "tcp4_gbit": "four TCP flows",
        "bidir_gbit": "one TCP flow each way, sum",
        "flows10k_gbit": "10,000 open connections",
        "udp1200_kpps": "datagrams of 1200 bytes, under 1 % lost",
        "udp64_kpps": "datagrams of 64 bytes, under 1 % lost",
        "ping_ms": "ping, idle (less is better)",
        "ping_loaded_ms": "ping beside a TCP flow (less is better)",
        "loss1pct_gbit": "one TCP flow, 1 % loss",
        "loss01pct_gbit": "one TCP flow, 0.1 % loss",
        f"loss1pct_{_DELAY_MS}ms_gbit": f"one TCP flow, 1 % loss, {_DELAY_MS} ms",
        f"loss01pct_{_DELAY_MS}ms_gbit": f"one TCP flow, 0.1 % loss, {_DELAY_MS} ms",
        "cpu_sender_s_a_gb": "CPU of the sender (less is better)",
        "cpu_receiver_s_a_gb": "CPU of the receiver (less is better)",
    }
    return {title: {link: f"{link}_{figure}" for link in LINKS} for figure, title in titles.items()}


def _ratios(measured: dict[str, Values]) -> Figures:
    """What the project promises, by the names of its acceptance; a ratio without one of its sides is left out."""
    best = {
        figure: max((measured[peer][figure] for peer in PEERS if figure in measured.get(peer, ())), default=None)
        for figure in ("udp1200_kpps", "udp64_kpps")
    }
    for case in ("tcp1", "tcp4", "bidir", "loss1pct", "loss01pct", "loss1pct_20ms", "loss01pct_20ms", "flows10k"):
        yield from _ratio(f"{case}_vs_wireguard_go", measured, f"{case}_gbit", WIREGUARD)
    yield from _ratio("direct_tcp1_vs_wireguard_go", measured, "tcp1_gbit", WIREGUARD)
    for other in (RAW, "boringtun", "nebula", "openvpn"):
        yield from _ratio(f"tcp1_vs_{other}", measured, "tcp1_gbit", other)
    for case in ("ping", "ping_loaded"):
        yield from _ratio(f"{case}_vs_wireguard_go", measured, f"{case}_ms", WIREGUARD)
    yield from _ratio("openssl_tcp1_vs_wireguard_go", measured, "tcp1_gbit", WIREGUARD, ours=OPENSSL)
    for figure, rate in best.items():
        if rate and figure in measured.get(KAIROS, ()):
            yield f"{figure.removesuffix('_kpps')}_vs_best_peer", measured[KAIROS][figure] / rate, "x"


def _ratio(name: str, measured: dict[str, Values], figure: str, other: str, ours: str = KAIROS) -> Figures:
    own, theirs = (measured.get(link, {}).get(figure) for link in (ours, other))
    if own is not None and theirs:
        yield name, own / theirs, "x"


def _product(whole: Product, seconds: int) -> Figures:
    """The daemons: through the relay, then direct, with and without a new key each second, in turns."""
    relay = whole.start("relay")
    with traffic.iperf_server(relay):
        yield "relay_tcp_gbit", traffic.tcp_gbit(relay, seconds), "Gbit/s"
        yield "relay_ping_ms", traffic.ping_ms(relay), "ms"
    rates: dict[float | None, list[float]] = {None: [], _REKEY_S: []}
    idle_cpu_s = dict.fromkeys(rates, 0.0)
    for _ in range(_REKEY_TURNS):
        for rekey_after_s in rates:
            direct = whole.start("direct", rekey_after_s)
            idle_cpu_s[rekey_after_s] += _idle_cpu_s(direct)
            with traffic.iperf_server(direct):
                rates[rekey_after_s] += [traffic.tcp_gbit(direct, seconds) for _ in range(2)]
    plain, rekeyed = (statistics.mean(found) for found in rates.values())
    yield "daemon_tcp1_gbit", plain, "Gbit/s"
    endpoint, gateway = direct.resident_mb()
    yield "daemon_rss_endpoint_mb", endpoint, "MB resident"
    yield "daemon_rss_gateway_mb", gateway, "MB resident"
    yield "rekey_cost_pct", 100 * (1 - rekeyed / plain), "%"
    keys = _REKEY_TURNS * _REKEY_IDLE_S / _REKEY_S
    yield "rekey_cpu_ms", 1e3 * (idle_cpu_s[_REKEY_S] - idle_cpu_s[None]) / keys, "ms of CPU a key, both ends"
    whole.stop()


def _idle_cpu_s(link: Link) -> float:
    """CPU seconds of both ends while nothing passes: what is not traffic."""
    before = sum(link.cpu_s())
    time.sleep(_REKEY_IDLE_S)
    return sum(link.cpu_s()) - before


if __name__ == "__main__":
    main()
