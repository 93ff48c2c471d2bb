"""Requests and replies as plain values: what a route sees of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from kairos.api.problem import CONTENT_TYPE, Problem, ProblemError

from .problems import problem

if TYPE_CHECKING:
    from .administrators import Administrator

JSON = "application/json"
BYTES = "application/octet-stream"
T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One request. target: path and query exactly as sent (signatures cover it); headers: names in lower case;
    body: at most the route's limit; parameters: what the path template matched; device, administrator: set by authentication;
    ahead_s: by how much the device's clock is."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    parameters: dict[str, str] = field(default_factory=dict)
    device: Mapping[str, Any] | None = None
    ahead_s: int = 0
    administrator: Administrator | None = None

    @property
    def actor(self) -> str:
        """Who it was proven to be, as the audit names it; empty before that."""
        if self.administrator is not None:
            return self.administrator.actor
        return str(self.device["node"]) if self.device is not None else ""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def source(self) -> str:
        """The client's address as Cloudflare saw it; empty on the local fabric."""
        return self.headers.get("cf-connecting-ip", "")

    def decode(self, type_: type[T]) -> T:
        """The body as `type_`. Raises a ProblemError: malformed (not JSON) or invalid (wrong fields)."""
        try:
            return msgspec.json.decode(self.body, type=type_)
        except msgspec.ValidationError as error:
            raise problem("invalid", str(error)) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise problem("malformed", f"the body is not JSON: {error}") from None


@dataclass(slots=True)
class Reply:
    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def reply(value: object, status: int = 200) -> Reply:
    """`value` as JSON; bytes as they are; None as 204."""
    if value is None:
        return Reply(204, content_type="")
    if isinstance(value, bytes):
        return Reply(status, value, BYTES)
    return Reply(status, msgspec.json.encode(value))


def problem_reply(error: ProblemError, instance: str = "") -> Reply:
    """The error in the one shape every route answers with (RFC 9457)."""
    body: Problem = msgspec.structs.replace(error.problem, instance=instance)
    headers = {"cache-control": "no-store"}
    if body.retry_after_s is not None:
        headers["retry-after"] = str(body.retry_after_s)
    if body.status == 401:
        headers["www-authenticate"] = "Kairos-Signature, Bearer"
    return Reply(body.status, msgspec.json.encode(body), CONTENT_TYPE, headers)
