"""Decode JSON responses into the dataclasses of `responses`.

Unknown fields are ignored, so that the client works with a newer gateway.
"""

from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gateway.client.errors import DecodeError

T = TypeVar("T")


def decode(kind: type[T], value: Any) -> T:
    """Convert a JSON value to `kind`.

    Raises:
        DecodeError: the value does not match `kind`.
    """
    try:
        decoded: T = _decode(kind, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise DecodeError(f"the response is not a valid {kind.__name__}: {error}") from None
    return decoded


def _decode(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(kind) is UnionType:
        [kind, *_] = [alternative for alternative in get_args(kind) if alternative is not NoneType]
    if kind is datetime:
        return datetime.fromisoformat(value)
    if get_origin(kind) is list:
        [inner] = get_args(kind)
        return [_decode(inner, item) for item in value]
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(
            **{name: _decode(field_type, value[name]) for name, field_type in _field_types(kind) if name in value}
        )
    return value


@cache
def _field_types(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    types = get_type_hints(kind)
    return tuple((field.name, types[field.name]) for field in fields(kind))
