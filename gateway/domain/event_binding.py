"""Audiences with placeholders for values of an event.

    {"all": [{"topic": {"from_event": "data.team"}}, {"not": {"user_id": {"from_event": "user_id"}}}]}

The placeholder `{"from_event": path}` may stand for any value of a filter. It is replaced by the event's value at that
path: `user_id`, `name`, or a path below `data`.
"""

from collections.abc import Iterator
from typing import Any

from gateway.domain.condition import get_value
from gateway.domain.errors import pointer_step
from gateway.domain.json_object import JsonObject

PLACEHOLDER_KEY = "from_event"


class MissingEventValue(Exception):
    """The event has no value at the path of a placeholder."""

    def __init__(self, path: str) -> None:
        """Create the error for a path."""
        super().__init__(path)
        self.path = path


def bind(audience: Any, event: JsonObject) -> Any:
    """Replace the placeholders of an audience by values of the event.

    Raises:
        MissingEventValue: the event has no such value.
    """
    match audience:
        case {"from_event": str(path), **rest} if not rest:
            value = get_value(event, path)
            if value is None or isinstance(value, dict):
                raise MissingEventValue(path)
            return value
        case dict():
            return {name: bind(value, event) for name, value in audience.items()}
        case list():
            return [bind(value, event) for value in audience]
    return audience


def iter_references(audience: Any, pointer: str) -> Iterator[str]:
    """Yield the JSON pointers of all placeholders."""
    match audience:
        case {"from_event": str(), **rest} if not rest:
            yield pointer
        case dict():
            for name, value in audience.items():
                yield from iter_references(value, pointer + pointer_step(name))
        case list():
            for index, value in enumerate(audience):
                yield from iter_references(value, f"{pointer}/{index}")


def replace_with_samples(audience: Any, pointer: str, numbers: set[str]) -> Any:
    """Replace the placeholders by sample values, so that the audience can be validated before an event occurs.

    The sample is a number at the JSON pointers in `numbers`, and text elsewhere.
    """
    match audience:
        case {"from_event": str(), **rest} if not rest:
            return 1 if pointer in numbers else "x"
        case dict():
            return {
                name: replace_with_samples(value, pointer + pointer_step(name), numbers)
                for name, value in audience.items()
            }
        case list():
            return [replace_with_samples(value, f"{pointer}/{index}", numbers) for index, value in enumerate(audience)]
    return audience
