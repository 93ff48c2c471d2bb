"""RFC 9457 problem details: the one shape of every error at the HTTP edge."""

from __future__ import annotations

import msgspec

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:kairos:problem:"


class Problem(msgspec.Struct, omit_defaults=True):
    """`type` is `urn:kairos:problem:<code>`; `detail` tells a person what to do next."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str = ""
    retry_after_s: int | None = None

    @property
    def code(self) -> str:
        return self.type.removeprefix(TYPE_PREFIX)


class ProblemError(Exception):
    """Raised by a route to answer with a problem; raised by a client that was answered with one."""

    def __init__(self, code: str, status: int, title: str, detail: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.problem = Problem(TYPE_PREFIX + code, title, status, detail, retry_after_s=retry_after_s)
        self.allow = ""
        """The methods that the resource takes, for the Allow header of a 405."""

    @property
    def code(self) -> str:
        return self.problem.code
