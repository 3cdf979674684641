"""From an answer's JSON to the types of `answers`: what is not known there is left out, so that a newer gateway is
understood too."""

from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gateway.client.errors import DecodeError

T = TypeVar("T")


def decode(kind: type[T], value: Any) -> T:
    """Raises Unreadable."""
    try:
        decoded: T = _decode(kind, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise DecodeError(f"the answer is no {kind.__name__}: {error}") from None
    return decoded


def _decode(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if get_origin(kind) is UnionType:
        [kind, *_] = [arm for arm in get_args(kind) if arm is not NoneType]
    if kind is datetime:
        return datetime.fromisoformat(value)
    if get_origin(kind) is list:
        [inner] = get_args(kind)
        return [_decode(inner, one) for one in value]
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**{name: _decode(of, value[name]) for name, of in _hints(kind) if name in value})
    return value


@cache
def _hints(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))
