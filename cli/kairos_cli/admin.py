"""The operator's side of the HTTP API: one request, one answer, one clear line when it is refused."""

from __future__ import annotations

import argparse
import os
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import msgspec

from kairos.api.admin import Page
from kairos.api.problem import Problem, ProblemError
from kairos.errors import UNREADABLE, BadMessage, KairosError
from kairos_cli.fabric.operator import Operator, directory

_TIMEOUT_S = 30
_T = TypeVar("_T")


class AdminClient:
    """Calls with the fabric's admin credential. Raises ProblemError, ConnectionError, BadMessage."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def get(self, path: str, type_: type[_T], **query: str | int) -> _T:
        return self._decoded(self.octets("GET", f"{path}?{urlencode(query)}" if query else path), type_)

    def pages(self, path: str, type_: type[_T], **query: str | int) -> list[_T]:
        """All items of a listing."""
        items: list[_T] = []
        while True:
            page = self.get(path, Page, **query)
            items += msgspec.convert(page.items, list[type_])  # type: ignore[valid-type]
            if not page.next:
                return items
            query["after"] = page.next

    def send(self, method: str, path: str, body: object, type_: type[_T]) -> _T:
        return self._decoded(self.octets(method, path, msgspec.json.encode(body)), type_)

    def delete(self, path: str) -> None:
        self.octets("DELETE", path)

    def octets(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self.operator.admin_token}", "Content-Type": "application/json"}
        request = Request(self.operator.url + path, data=body, method=method, headers=headers)
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:
                data: bytes = answer.read()
                return data
        except HTTPError as error:
            raise refusal(error) from None
        except (URLError, HTTPException, OSError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise ConnectionError(
                f"the fabric {self.operator.url} cannot be reached: {reason}; is it running?"
            ) from None

    def _decoded(self, data: bytes, type_: type[_T]) -> _T:
        try:
            return msgspec.json.decode(data, type=type_)
        except UNREADABLE as error:
            raise BadMessage(f"the fabric's answer is no {type_.__name__}: {error}") from None


def client(options: argparse.Namespace) -> AdminClient:
    """For the operator directory and the credential that the command names: --credential, else $KAIROS_ADMIN_TOKEN, else the
    directory's own. Raises OperatorError."""
    named = getattr(options, "credential", None)
    credential = Path(named).read_text().strip() if named else os.environ.get("KAIROS_ADMIN_TOKEN", "").strip()
    return AdminClient(Operator.load(directory(options.dir), credential))


def tenant_of(options: argparse.Namespace) -> str:
    """--tenant or $KAIROS_TENANT. Raises KairosError."""
    tenant: str | None = options.tenant or os.environ.get("KAIROS_TENANT")
    if not tenant:
        raise KairosError("name the tenant with --tenant or $KAIROS_TENANT; `kairos tenant list` shows them")
    return tenant


def at(tenant: str, *parts: str) -> str:
    """The path of a tenant's resource."""
    return "/".join(("/v1/tenants", *(quote(part, safe="") for part in (tenant, *parts))))


def refusal(error: HTTPError) -> Exception:
    """The problem that the fabric answered with, or that it was not the fabric."""
    body = error.read()
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except UNREADABLE:
        return ConnectionError(f"{error.url} answered {error.code}; is this the fabric?")
    return ProblemError(problem.code, problem.status, problem.title, problem.detail, problem.retry_after_s)
