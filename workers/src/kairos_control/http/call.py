"""Requests and replies as plain values: what a route sees of HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from kairos.api.problem import CONTENT_TYPE, Problem, ProblemError

from ..problems import problem
from ..services.administrators import Administrator
from ..store.devices import StoredDevice

JSON = "application/json"
BYTES = "application/octet-stream"
T = TypeVar("T")
Q = TypeVar("Q", bound=msgspec.Struct)
_WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(slots=True)
class Call:
    """One request."""

    method: str
    """In upper case."""
    target: str
    """Path and query exactly as they were sent; signatures cover it."""
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = b""
    """At most as long as the route takes; empty before it is read."""
    parameters: dict[str, str] = field(default_factory=dict)
    """What the path template of the route matched."""
    device: StoredDevice | None = None
    """The node that signed the request; set by authentication."""
    ahead_s: int = 0
    """By how many seconds that node's clock is ahead of ours; negative when it is behind."""
    administrator: Administrator | None = None
    """The administrator whose credential the request carries; set by authentication."""

    @property
    def actor(self) -> str:
        """The authenticated caller, as the audit names it; empty before authentication."""
        if self.administrator is not None:
            return self.administrator.actor
        return self.device.node if self.device is not None else ""

    @property
    def node(self) -> StoredDevice:
        """The node that calls. Only for routes that nodes call."""
        assert self.device is not None, "the route does not authenticate a node"
        return self.device

    @property
    def path(self) -> str:
        """urllib.parse.urlsplit() is for whole URLs: it takes what follows `//` for a host, and raises where that can be none."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def source(self) -> str:
        """The client's address as Cloudflare saw it; empty on the local fabric."""
        return self.headers.get("cf-connecting-ip", "")

    @property
    def bearer(self) -> str:
        """The token of the Authorization header; empty without one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""

    def decode(self, type_: type[T]) -> T:
        """The body as `type_`. Raises a ProblemError: malformed (not JSON) or invalid (wrong fields)."""
        try:
            return msgspec.json.decode(self.body, type=type_)
        except msgspec.ValidationError as error:
            raise problem("invalid", str(error)) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise problem("malformed", f"the body is not JSON: {error}") from None

    def decode_query(self, type_: type[Q]) -> Q:
        """The query as `type_`, a Struct of str, int and float fields. Names that it does not have are ignored.

        A number is at most 15 ASCII digits, so that D1 and JavaScript take it exactly. Raises invalid.
        """
        given, values = self.query, dict[str, object]()
        for each in msgspec.structs.fields(type_):
            if each.name in given:
                values[each.name] = _value(each.name, given[each.name], _plain(each.type))
        try:
            return msgspec.convert(values, type_)
        except msgspec.ValidationError as error:
            raise problem("invalid", f"query: {error}") from None


def _plain(type_: object) -> object:
    return get_args(type_)[0] if get_origin(type_) is Annotated else type_


def _value(name: str, text: str, type_: object) -> object:
    if type_ is str:
        return text
    whole, point, fraction = text.partition(".")
    if not _WHOLE.fullmatch(whole) or (point and (type_ is int or not _WHOLE.fullmatch(fraction))):
        raise problem("invalid", f"{name}: a number of at most 15 digits")
    return int(text) if type_ is int else float(text)


@dataclass(slots=True)
class Reply:
    """One response."""

    status: int
    """The HTTP status code."""
    body: bytes = b""
    """Empty: none."""
    content_type: str = JSON
    """Empty without a body."""
    headers: dict[str, str] = field(default_factory=dict)
    """By name in lower case, beside content-type."""


def reply(value: object, status: int = 200) -> Reply:
    """`value` as JSON; bytes as they are; None as 204."""
    if value is None:
        return Reply(204, content_type="")
    if isinstance(value, bytes):
        return Reply(status, value, BYTES)
    return Reply(status, msgspec.json.encode(value))


def problem_reply(error: ProblemError, instance: str = "") -> Reply:
    """The error in the one shape that every route answers with (RFC 9457)."""
    body: Problem = msgspec.structs.replace(error.problem, instance=instance)
    headers = {"cache-control": "no-store"}
    if body.retry_after_s is not None:
        headers["retry-after"] = str(body.retry_after_s)
    if body.status == 401:
        headers["www-authenticate"] = "Kairos-Signature, Bearer"
    if error.allow:
        headers["allow"] = error.allow
    return Reply(body.status, msgspec.json.encode(body), CONTENT_TYPE, headers)
