"""How often one source, device or join token may call: a budget that refills with time.

Kept in the memory of the object or isolate, which an eviction empties: an object that was evicted was not under load. Only what was
proven is counted for a device or a token, so nobody can spend another's budget. Each budget has a table of its own, so that a flood of
addresses pushes no device out of its table.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from ..ports import Clock
from ..problems import problem

_KEPT = 10_000  # entries of one table, about 2 MB


@dataclass(frozen=True, slots=True)
class Budget:
    """How many calls one caller may make."""

    name: str
    """What it is for, as the refusal says it."""
    burst: int
    """Calls at once."""
    per_second: float
    """Calls that come back each second."""


SOURCE = Budget("this address", 600, 20)  # an office behind one address renews 4,000 sessions in 200 s
SITE = Budget("this network", 6_000, 200)  # an IPv6 /48, which one subscriber may have whole
RELAY_SOURCE = Budget("this address at the relay", 600, 20)
DEVICE = Budget("this device", 600, 10)
SESSION = Budget("this device's sessions", 300, 1)
CERTIFICATE = Budget("this device's certificates", 30, 1 / 600)  # one each 16 h is what it needs
ENROLLMENT = Budget("this key's challenges", 30, 1 / 600)  # each may end in a certificate and a revision of the network
ROUTES = Budget("this device's changes of its routes", 30, 1 / 60)  # each may be told to a whole VNI
POSTURE = Budget("this device's posture", 30, 0.2)  # each is passed on to all gateways
NETWORK = Budget(
    "this device's pages of the network", 600, 2
)  # a page reads thousands of rows of a database of all tenants
MESSAGE = Budget("this device's messages", 1000, 10)  # receipts of isolations
GATEWAY_MESSAGE = Budget("this gateway's messages", 10_000, 200)  # and verdicts, of all that join
TELEMETRY = Budget("this device's telemetry", 10, 1 / 30)  # one a minute is what it sends
TOKEN = Budget("this join token", 300, 5)


class Limits:
    """What callers have spent of their budgets."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # By budget and caller: calls that have not refilled yet, and when that was; the caller that was quiet longest first.
        self._spent: dict[str, dict[str, tuple[float, float]]] = {}

    def take(self, budget: Budget, who: str, cost: int = 1) -> None:
        """Counts one call of `who`, or so many of what the budget counts. Raises too-many-requests."""
        table, now = self._spent.setdefault(budget.name, {}), self._clock()
        spent, at = table.pop(who, (0.0, now))
        spent = max(0.0, spent - max(0.0, now - at) * budget.per_second)
        over = spent + cost - budget.burst
        table[who] = (spent if over > 0 else spent + cost, now)
        if len(table) > _KEPT:
            del table[next(iter(table))]
        if over > 0:
            wait = math.ceil(over / budget.per_second)
            raise problem("too-many-requests", f"{budget.name}: too many now; again in {wait} s", wait)

    def take_source(self, address: str, budget: Budget = SOURCE) -> None:
        """Counts one call from an address: an IPv4 address, or the /64 of an IPv6 address and the /48 around it, for that is what one
        subscriber has. An empty address, as on the local fabric, is not counted. Raises too-many-requests."""
        if not address:
            return
        subnet, site = _prefixes(address)
        self.take(budget, subnet)
        if site:
            self.take(SITE, site)


def site_of(address: str) -> str:
    """The widest prefix that one subscriber may have around an address; empty for an empty address."""
    subnet, site = _prefixes(address)
    return site or subnet


def _prefixes(address: str) -> tuple[str, str]:
    """(the prefix of one subscriber, the wider one that it may have; empty for IPv4)"""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64], ""  # whatever it is, it is bounded
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    if isinstance(parsed, ipaddress.IPv4Address) or mapped is not None:
        return str(mapped or parsed), ""
    return str(_network(parsed, 64)), str(_network(parsed, 48))


def _network(address: ipaddress.IPv6Address, length: int) -> ipaddress.IPv6Network:
    return ipaddress.IPv6Network((int(address) >> (128 - length) << (128 - length), length))
