"""The OpenAPI 3.1 document, made from the route table and the types it names: so it cannot contradict the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_origin

import msgspec

from kairos import __version__
from kairos.api.problem import CONTENT_TYPE, Problem

from ..problems import PROBLEMS
from .routing import Caller, Route

_SECURITY: dict[Caller, list[dict[str, list[str]]]] = {
    Caller.ANYONE: [],
    Caller.JOINING: [{"signature": []}],
    Caller.NODE: [{"node": [], "signature": []}],
    Caller.VIEWER: [{"bearer": []}],
    Caller.OPERATOR: [{"bearer": []}],
    Caller.ADMIN: [{"bearer": []}],
    Caller.ROOT: [{"bearer": []}],
    Caller.NODE_OR_ADMIN: [{"node": [], "signature": []}, {"bearer": []}],
    Caller.INTERNAL: [{"bearer": []}],
}
# The statuses of refusals: of every route, by the caller that a route is for, by its body, and by what the records do
# not allow.
_ALWAYS = {429, 500, 503}
_BY_CALLER = {Caller.ANYONE: set[int](), Caller.INTERNAL: {401}}
_PROVEN = {401, 403}
_BODY = {400, 408, 411, 413, 422}
_CHANGE = {409, 410}


def document(routes: Sequence[Route[Any]]) -> dict[str, Any]:
    types = {type_ for route in routes for type_ in (route.body, route.answer) if _is_struct(type_)} | {Problem}
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    references = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.caller is not Caller.INTERNAL:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KairOS Red fabric",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The fabric that serves this document"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "node": {"type": "apiKey", "in": "header", "name": "Kairos-Device"},
                "signature": {"type": "apiKey", "in": "header", "name": "Kairos-Signature"},
            },
        },
    }


def _operation(route: Route[Any], references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        success["content"] = _content(route.answer, references)
    operation: dict[str, Any] = {
        "operationId": f"{route.name}.fabric" if "{tenant}" not in route.path else route.name,
        "summary": route.summary,
        "security": _SECURITY[route.caller],
        "responses": {
            str(route.status): success,
            **{str(status): _refusal(status, references) for status in sorted(_refusals(route))},
        },
    }
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,80}$"},
        }
        for name in re.findall(r"\{(\w+)\}", route.path)
    ] + _query(route)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, references)}
    return operation


def _refusals(route: Route[Any]) -> set[int]:
    """The statuses of the problems that the route may answer with."""
    found = _ALWAYS | _BY_CALLER.get(route.caller, _PROVEN)
    if "{" in route.path:
        found |= {404}
    if route.body is not None:
        found |= _BODY
    if route.query is not None:
        found |= {422}
    if route.method != "GET":
        found |= _CHANGE
    if route.status == 101:
        found |= {426}
    return found


def _refusal(status: int, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    codes = ", ".join(code for code, (each, _) in PROBLEMS.items() if each == status)
    return {"description": f"RFC 9457: {codes}", "content": {CONTENT_TYPE: {"schema": references[Problem]}}}


def _query(route: Route[Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = msgspec.json.schema(route.query)["$defs"][route.query.__name__]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": property_}
        for name, property_ in schema["properties"].items()
    ]


def _content(type_: Any, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if type_ is bytes:
        return {"application/octet-stream": {}}
    if type_ is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    return {"application/json": {"schema": references.get(type_, {"type": "object"})}}


def _is_struct(type_: Any) -> bool:
    type_ = get_origin(type_) or type_
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)
