"""The route table: which method and path calls what, for whom. The OpenAPI document is made from the same rows."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kairos.constants import BODY_MAX

from .http import Call, Reply
from .problems import problem

Handler = Callable[[Any, Call], Awaitable[Reply]]


class Caller(Enum):
    """Who may call a route, and how it proves that."""

    ANYONE = "anyone"
    JOINING = "the key in the body, Kairos-Signature"
    NODE = "an enrolled node, Kairos-Device and Kairos-Signature"
    VIEWER = "an administrator who may look, Authorization: Bearer"
    OPERATOR = "an administrator who runs devices and segments"
    ADMIN = "an administrator who decides who and what may pass: tenant-admin"
    ROOT = "the administrator of the whole fabric"
    NODE_OR_ADMIN = "an enrolled node, or an administrator who may look"
    INTERNAL = "the other Worker, Authorization: Bearer"


@dataclass(frozen=True)
class Route:
    """`body` and `answer` are the types of kairos/api; None: no body. bytes: octets as they are. alone: it changes the tenant's
    records; such calls take turns, from who calls to the last write."""

    method: str
    path: str
    caller: Caller
    handler: Handler
    summary: str
    body: Any = None
    answer: Any = None
    status: int = 200
    body_max: int = BODY_MAX
    alone: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9_.-]{1,80})", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern))


def find(routes: Iterable[Route], call: Call) -> Route:
    """The route of a call; fills in its parameters. Raises a ProblemError."""
    allowed = []
    for route in routes:
        match = route.pattern.fullmatch(call.path)
        if match is None:
            continue
        if route.method == call.method:
            call.parameters = match.groupdict()
            return route
        allowed.append(route.method)
    if allowed:
        raise problem("method-not-allowed", f"{call.path} takes {', '.join(allowed)}")
    raise problem("not-found", f"there is no {call.path}; /v1/openapi.json lists what there is")
