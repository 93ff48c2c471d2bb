"""The OpenAPI 3.1 document, made from the route table and the types it names: it cannot say anything else than the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from kairos import __version__
from kairos.api.problem import CONTENT_TYPE, Problem

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


def document(routes: Sequence[Route]) -> dict[str, Any]:
    types = {type_ for route in routes for type_ in (route.body, route.answer) if _is_struct(type_)} | {Problem}
    ordered = sorted(types, key=lambda type_: str(type_.__name__))
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    references = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.caller is not Caller.INTERNAL:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "KairOS Red fabric", "version": __version__, "license": {"name": "Apache-2.0"}},
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


def _operation(route: Route, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        success["content"] = _content(route.answer, references)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "security": _SECURITY[route.caller],
        "responses": {
            str(route.status): success,
            "default": {
                "description": "What went wrong (RFC 9457)",
                "content": {CONTENT_TYPE: {"schema": references[Problem]}},
            },
        },
    }
    names = re.findall(r"\{(\w+)\}", route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, references)}
    return operation


def _content(type_: Any, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if type_ is bytes:
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": references.get(type_, {"type": "object"})}}


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)
