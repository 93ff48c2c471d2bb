"""What callers who prove nothing can make the fabric keep: all public routes at once, as fast as one process calls, for a minute and more.

Growth is that of D1, of the objects' SQLite, of R2, and of what both Workers keep; a minute's is scaled to a day. Refusals are recorded
by the minute, so the storm lasts more than one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import aiohttp
import msgspec

from bench.fabric_site import MODEL, Site
from kairos.api.enrollment import EnrollRequest
from kairos.crypto import labels
from kairos.crypto.provider import SigningKey
from kairos.identity import transcript
from kairos.identity.signed_request import DEVICE_HEADER, NONCE_BYTES, SIGNATURE_HEADER, Proof

DAY_S = 86_400
STORM_S, QUICK_STORM_S = 70.0, 1.0
_AT_ONCE = 16
_PATH = "x" * 79  # what a name in a path may have
_LONG_PATH = "enrollments/" + "x" * 7_000  # the Worker's URL may have 16 kB
_STORED = ("d1_bytes", "object_bytes", "r2_bytes")
Call = tuple[str, str, bytes, dict[str, str]]  # method, URL, body, headers


async def storage_of_strangers(site: Site, seconds: float, one_source: bool) -> tuple[float, Counter[int]]:
    """(bytes a day that stay, calls by the status of their answer). One source: all calls come from one address, as Cloudflare would
    tell it."""
    await site.seal()
    before, relay_before = site.usage(), _relay_usage(site)
    calls = _calls(site, one_source)
    answers, began = Counter[int](), time.monotonic()
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as http:

        async def work() -> None:
            while time.monotonic() - began < seconds:
                method, url, body, headers = next(calls)
                async with http.request(method, url, data=body or None, headers=headers) as answer:
                    await answer.read()
                answers[answer.status] += 1

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    took = time.monotonic() - began
    await site.seal()
    after, relay_after = site.usage(), _relay_usage(site)
    grown = sum(after[name] - before[name] + relay_after.get(name, 0) - relay_before.get(name, 0) for name in _STORED)
    return max(0.0, grown) / took * DAY_S, answers


def _relay_usage(site: Site) -> Mapping[str, int]:
    with urllib.request.urlopen(f"{site.host.operator.relay_url}/local/usage", timeout=60) as answer:
        usage: Mapping[str, int] = json.loads(answer.read())
    return usage


def _calls(site: Site, one_source: bool) -> Iterator[Call]:
    """Every kind in turn, for ever, from one address or each from another."""
    key = site.active[0].member.key
    kinds = tuple(_kinds(site, key))
    chance = random.Random(1)
    for make in itertools.cycle(kinds):
        method, url, body, headers = make()
        source = (
            "198.51.100.7" if one_source else f"2001:db8:{chance.randrange(1 << 16):x}:{chance.randrange(1 << 16):x}::1"
        )
        yield method, url, body, headers | {"CF-Connecting-IP": source, "Content-Type": "application/json"}


def _kinds(site: Site, key: SigningKey) -> Iterator[Callable[[], Call]]:
    tenant = f"{site.host.operator.url}/v1/tenants/{MODEL}"
    relay = site.host.operator.relay_url
    known, filler = site.active[0].member.node, b'"' * 60_000
    yield lambda: (
        "POST",
        f"{tenant}/enrollments",
        _enroll(key),
        _signed(key, "", "POST", f"/v1/tenants/{MODEL}/enrollments", _enroll(key)),
    )
    yield lambda: ("POST", f"{tenant}/enrollments/{_PATH}/response", b'{"signature":"AAAA"}', {})
    yield lambda: ("GET", f"{tenant}/enrollments/{os.urandom(16).hex()}", b"", {})
    yield lambda: ("GET", f"{tenant}/{_LONG_PATH}", b"", {})
    yield lambda: ("POST", f"{tenant}/posture", b'{"facts":{}}', {DEVICE_HEADER: f"ep-{os.urandom(30).hex()}"})
    yield lambda: ("POST", f"{tenant}/posture", b'{"facts":{}}', {DEVICE_HEADER: known, SIGNATURE_HEADER: _proof()})
    yield lambda: ("POST", f"{tenant}/audit", filler, {DEVICE_HEADER: known, SIGNATURE_HEADER: _proof()})
    yield lambda: ("GET", f"{tenant}/devices?{'x' * 4_000}", b"", {"Authorization": f"Bearer {os.urandom(32).hex()}"})
    yield lambda: ("DELETE", f"{tenant}/{'y' * 4_000}", filler, {})
    yield lambda: ("OPTIONS", f"{tenant}/policy", filler, {})
    yield lambda: ("PUT", f"{tenant}/policy", filler, {"Authorization": "Bearer x"})
    yield lambda: ("GET", f"{tenant}/events", b"", {DEVICE_HEADER: known, SIGNATURE_HEADER: _proof()})
    yield lambda: ("GET", f"{site.host.operator.url}/v1/tenants/{os.urandom(8).hex()}/network", b"", {})
    yield lambda: ("POST", f"{site.host.operator.url}/v1/tenants", b'{"tenant":"mine"}', {"Authorization": "Bearer x"})
    yield lambda: (
        "POST",
        f"{site.host.operator.url}/internal/audit/{MODEL}",
        b'{"events":[]}',
        {"Authorization": "Bearer x"},
    )
    yield lambda: ("GET", f"{site.host.operator.url}/v1/health", b"", {})
    yield lambda: (
        "GET",
        f"{relay}/v1/relay/gw-{os.urandom(8).hex()}",
        b"",
        _upgrade(f"{MODEL}.{os.urandom(32).hex()}"),
    )


def _enroll(key: SigningKey) -> bytes:
    """E1 as it should be, but for the token."""
    wanted = EnrollRequest("KR1", "endpoint", "0" * 16, bytes(32), key.public_key, "h" * 64, {"x": "y" * 7_000})
    return msgspec.json.encode(wanted)


def _signed(key: SigningKey, node: str, method: str, target: str, body: bytes) -> dict[str, str]:
    timestamp, nonce = int(time.time()), os.urandom(NONCE_BYTES)
    signature = key.sign(transcript.signed_request(method, target, timestamp, nonce, body), labels.REQUEST)
    headers: dict[str, Any] = {SIGNATURE_HEADER: str(Proof(timestamp, nonce, signature))}
    return headers | ({DEVICE_HEADER: node} if node else {})


def _proof() -> str:
    """A signature of the right form that nobody made."""
    return str(Proof(int(time.time()), os.urandom(NONCE_BYTES), bytes(3_309)))


def _upgrade(token: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
