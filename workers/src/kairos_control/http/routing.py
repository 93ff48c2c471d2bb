"""Routes: which method and path calls which handler, and who may call it. The OpenAPI document is made from the same
rows."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from kairos.api.problem import ProblemError
from kairos.constants import BODY_MAX

from ..problems import problem
from .call import Call, Reply

AT = "/v1/tenants/{tenant}"  # where the resources of a tenant are
S = TypeVar("S")
Handler = Callable[[S, Call], Awaitable[Reply]]


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
class Route(Generic[S]):
    """One row of a route table. S: the services that its handler works with."""

    method: str
    """In upper case."""
    path: str
    """A template: `{name}` matches one segment of at most 80 letters, digits, `_`, `.` and `-`."""
    caller: Caller
    """Who may call it."""
    handler: Handler[S]
    """Decodes the call, asks a service and makes the reply."""
    summary: str
    """What it does, for the OpenAPI document."""
    body: Any = None
    """The type of kairos/api that the request carries; None: it carries none."""
    query: Any = None
    """The Struct of the query parameters; None: there are none."""
    answer: Any = None
    """The type of kairos/api that it answers with; bytes: octets as they are; None: nothing."""
    status: int = 200
    """The status of success."""
    body_max: int = BODY_MAX
    """Bytes that the request body may have."""
    serialized: bool = False
    """The call changes the tenant's records. Such calls run one after another; a caller is authenticated before it
    waits."""
    pattern: re.Pattern[str] = field(init=False)
    """`path` as a regular expression."""

    def __post_init__(self) -> None:
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9_.-]{1,80})", self.path)
        object.__setattr__(self, "pattern", re.compile(pattern))

    @property
    def name(self) -> str:
        """Unique among all routes: the resource's module and the handler's name."""
        return f"{self.handler.__module__.rsplit('.', 1)[-1]}.{self.handler.__name__}"


def find(routes: Iterable[Route[S]], call: Call) -> Route[S]:
    """The route of a call; fills in its parameters. HEAD is answered as GET is. Raises a ProblemError."""
    method = "GET" if call.method == "HEAD" else call.method
    allowed = []
    for route in routes:
        match = route.pattern.fullmatch(call.path)
        if match is None:
            continue
        if route.method == method:
            call.parameters = match.groupdict()
            return route
        allowed.append(route.method)
    if allowed:
        raise _method_not_allowed(call.path, allowed)
    raise problem("not-found", f"there is no {call.path}; /v1/openapi.json lists what there is")


def _method_not_allowed(path: str, allowed: list[str]) -> ProblemError:
    """With the methods that are, as RFC 9110 §15.5.6 asks for."""
    methods = ", ".join(sorted({*allowed, "HEAD"} if "GET" in allowed else set(allowed)))
    error = problem("method-not-allowed", f"{path} takes {methods}")
    error.allow = methods
    return error
