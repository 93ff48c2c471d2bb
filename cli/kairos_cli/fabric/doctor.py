"""`kairos fabric doctor`: checks a fabric from outside, by its health routes, its certificates and its metrics."""

from __future__ import annotations

import argparse
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from kairos import __version__
from kairos.api.enrollment import FabricInfo
from kairos.api.operations import Health
from kairos.constants import CLOCK_SKEW_S
from kairos.errors import KairosError
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.admin import AdminClient, client, refusal
from kairos_cli.fabric.cloudflare_limits import D1_DATABASE_BYTES
from kairos_cli.output import as_json, as_table, moment

_DAY_S = 86_400
_ISSUER_WARN_S, _ROOT_WARN_S = 14 * _DAY_S, 180 * _DAY_S
_WAITING_WARN = 10_000
_FULL_WARN = 0.8
_TIMEOUT_S = 20
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)

State = Literal["ok", "look", "wrong", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    """In a word or two."""
    state: State
    """`ok`; `look` at it soon; `wrong` now; `unknown` where the fabric does not say."""
    detail: str
    """What was found, and for all but `ok` what to do."""


def run(options: argparse.Namespace) -> int:
    findings = list(examine(client(options), time.time()))
    if options.json:
        as_json([asdict(each) for each in findings])
    else:
        as_table(("what", "", "found"), [(each.what, each.state, each.detail) for each in findings], "")
    return int(any(each.state == "wrong" for each in findings))


def examine(admin: AdminClient, now: float) -> Iterator[Finding]:
    """All findings. The first ones decide whether the others can be made."""
    operator = admin.operator
    reached = True
    for name, url in (("control plane", operator.url), ("relay", operator.relay_url)):
        found = _reached(name, url, now)
        reached = reached and found[0].state == "ok"
        yield from found
    if not reached:
        return
    said = admin.get("/v1/fabric", FabricInfo)
    yield _version(said.version)
    yield _schemas(admin.get("/v1/health", Health))
    for name, certificate, warn_s, remedy in (
        ("issuing CA", said.issuer_certificate, _ISSUER_WARN_S, "kairos fabric renew, then deploy"),
        ("root CA", said.root_certificate, _ROOT_WARN_S, "make a new fabric in time"),
    ):
        yield _end(name, parse_certificate_untrusted(certificate).not_after, now, warn_s, remedy)
    if said.root_certificate != operator.root_certificate:
        yield Finding("trust", "wrong", f"another root CA than in {operator.folder}: it is not your fabric")
    try:
        metrics = admin.octets("GET", "/v1/metrics").decode()
    except KairosError as error:
        yield Finding("metrics", "wrong", str(error))
        return
    yield from of_metrics(metrics, now)


def of_metrics(text: str, now: float) -> Iterator[Finding]:
    """The findings from the gauges of /v1/metrics."""
    samples: dict[str, dict[str, float]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        samples.setdefault(name.removeprefix("kairos_fabric_"), {})[_label(labels)] = float(value)

    def gauge(what: str, name: str) -> Iterator[tuple[str, float]] | Finding:
        if name not in samples:
            return Finding(what, "unknown", f"this fabric gives no kairos_fabric_{name}; kairos fabric upgrade")
        return iter(samples[name].items())

    waiting = gauge("queues", "queue_waiting")
    yield from [waiting] if isinstance(waiting, Finding) else [_queue(name, count) for name, count in waiting]
    dead = gauge("dead letters", "dead_letters")
    yield from [dead] if isinstance(dead, Finding) else [_dead(name, count) for name, count in dead]
    sizes = gauge("database", "database_bytes")
    yield from [sizes] if isinstance(sizes, Finding) else [_database(name, size) for name, size in sizes]
    ends = samples.get("certificate_end_seconds", {})
    if late := [end for end in ends.values() if 0 < end < now]:
        yield Finding("devices", "look", f"a device's certificate ended {moment(min(late))}; it has to enroll again")


def _reached(name: str, url: str, now: float) -> list[Finding]:
    try:
        with urllib.request.urlopen(f"{url}/v1/health", timeout=_TIMEOUT_S) as answer:
            json.load(answer)
            date = answer.headers.get("date")
    except urllib.error.HTTPError as error:
        with error:
            return [Finding(name, "wrong", f"{url} refuses: {refusal(error)}")]
    except (OSError, ValueError) as error:
        return [Finding(name, "wrong", f"{url} does not answer: {getattr(error, 'reason', error)}")]
    return [Finding(name, "ok", url), clock(name, date, now)]


def clock(name: str, date: str | None, now: float) -> Finding:
    """This machine's clock beside the Date header of an answer, which Cloudflare's edge always sends and a local
    fabric never."""
    if date is None:
        return Finding(f"clock, {name}", "unknown", "the answer has no Date, as that of a local fabric")
    ahead = now - parsedate_to_datetime(date).timestamp()
    if abs(ahead) < CLOCK_SKEW_S / 2:
        return Finding(f"clock, {name}", "ok", f"this machine is {ahead:+.0f} s off")
    return Finding(f"clock, {name}", "wrong", f"this machine is {ahead:+.0f} s off; set its clock")


def _version(running: str) -> Finding:
    if running == __version__:
        return Finding("version", "ok", running)
    return Finding(
        "version", "look", f"the fabric runs {running}, this command is {__version__}; kairos fabric upgrade"
    )


def _schemas(health: Health) -> Finding:
    """The fabric itself refuses every call while its code and its database do not fit; this tells where they are."""
    if not health.database:
        return Finding("schemas", "unknown", "this fabric does not name them; kairos fabric upgrade")
    return Finding("schemas", "ok", f"database {health.database}, objects {health.object}")


def _end(name: str, end: int, now: float, warn_s: int, remedy: str) -> Finding:
    if end < now:
        return Finding(name, "wrong", f"ended {moment(end)}: {remedy}")
    return Finding(
        name,
        "look" if end < now + warn_s else "ok",
        f"until {moment(end)}" + (f": {remedy}" if end < now + warn_s else ""),
    )


def _queue(name: str, count: float) -> Finding:
    state: State = "ok" if count < _WAITING_WARN else "look"
    return Finding(
        f"queue {name}", state, f"{count:,.0f} waiting" + ("" if state == "ok" else ": its consumer does not keep up")
    )


def _dead(name: str, count: float) -> Finding:
    if not count:
        return Finding(f"dead letters {name}", "ok", "none")
    return Finding(
        f"dead letters {name}", "wrong", f"{count:,.0f} messages that were never taken; the Worker's log has why"
    )


def _database(name: str, size: float) -> Finding:
    share = size / D1_DATABASE_BYTES
    state: State = "ok" if share < _FULL_WARN else "wrong"
    remedy = "" if state == "ok" else ": add a database and move tenants to it (kairos tenant move)"
    return Finding(f"database {name}".strip(), state, f"{size / 1e6:,.1f} MB, {share:.1%} of what D1 holds{remedy}")


def _label(labels: str) -> str:
    return ",".join(re.findall(r'="([^"]*)"', labels))
