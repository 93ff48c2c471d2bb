"""Values for the types of requests: one that fits, and all that are just beyond a bound of one field."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect


class Unbounded(AssertionError):
    """A field of a request has no bound."""


def fitting(info: inspect.Type) -> Any:
    """The smallest JSON value of the type."""
    match info:
        case inspect.StructType():
            value: dict[str, Any] = {each.encode_name: fitting(each.type) for each in info.fields if each.required}
            if info.tag is not None:
                value[str(info.tag_field)] = info.tag
            return value
        case inspect.LiteralType():
            return info.values[0]
        case inspect.IntType() | inspect.FloatType():
            return info.ge or 0
        case inspect.StrType() | inspect.BytesType():
            return ""
        case inspect.BoolType():
            return True
        case inspect.ListType():
            return []
        case inspect.DictType():
            return {}
        case inspect.AnyType():
            return 1
    raise TypeError(f"no value is known for {info}")


def beyond(info: inspect.Type, path: str = "$") -> Iterator[tuple[str, Any]]:
    """JSON values of the type of which one field is just too long, too large or too small, each with the path of that field."""
    match info:
        case inspect.StructType():
            for each in info.fields:
                for at, value in beyond(each.type, f"{path}.{each.encode_name}"):
                    yield at, fitting(info) | {each.encode_name: value}
        case inspect.IntType() | inspect.FloatType():
            if info.ge is None or info.le is None:
                raise Unbounded(path)
            yield path, info.ge - 1
            yield path, info.le * 2 + 1
            yield path, 9007199254740993
        case inspect.StrType():
            yield path, "x" * (_bound(info, path) + 1)
        case inspect.BytesType():
            yield path, base64.b64encode(bytes(_bound(info, path) + 1)).decode()
        case inspect.ListType():
            yield path, [fitting(info.item_type)] * (_bound(info, path) + 1)
            for at, value in beyond(info.item_type, f"{path}[]"):
                yield at, [value]
        case inspect.DictType():
            count = _bound(info, path) + 1
            yield path, {str(number): fitting(info.value_type) for number in range(count)}
            for at, key in beyond(info.key_type, f"{path}{{key}}"):
                yield at, {key: fitting(info.value_type)}
            for at, value in beyond(info.value_type, f"{path}{{}}"):
                yield at, {"x": value}
        case inspect.LiteralType():
            yield path, "no such value"
        case inspect.BoolType() | inspect.AnyType():
            return
        case _:
            raise TypeError(f"no value is known for {info}")


def cases(type_: Any) -> list[tuple[str, bytes]]:
    """Bodies of that type that are beyond a bound, each with the path of the field. Raises Unbounded."""
    return [(path, msgspec.json.encode(value)) for path, value in beyond(inspect.type_info(type_))]


def _bound(info: inspect.StrType | inspect.BytesType | inspect.ListType | inspect.DictType, path: str) -> int:
    if info.max_length is None:
        raise Unbounded(path)
    return info.max_length
