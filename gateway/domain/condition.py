"""Conditions over the data of an event, in the syntax of audience filters.

    {"all": [{"data": "cart.total", "gte": 50}, {"not": {"data": "cart.items.0.sku", "in": ["A1", "B2"]}}]}

`data` is a path of names and list indexes into the event's data. A condition reads only that data and runs no code of
its author, so any API key that may create triggers may also create conditions.
"""

from collections.abc import Callable
from typing import Any

from gateway.domain import comparison
from gateway.domain.errors import FieldError, ValidationError, pointer_step

# Maximum size of a condition, and of the path in a leaf.
MAX_DEPTH = 16
MAX_LEAVES = 200
MAX_PATH_LENGTH = 200

# A function that returns whether the data of an event matches.
Condition = Callable[[Any], bool]


def parse(value: object, pointer: str = "/condition") -> Condition:
    """Parse a condition.

    Raises:
        ValidationError: with every error and its JSON pointer.
    """
    errors: list[FieldError] = []
    leaves = 0

    def parse_node(value: object, pointer: str, depth: int) -> Condition:
        nonlocal leaves
        if depth > MAX_DEPTH:
            return refuse(pointer, f"is nested deeper than {MAX_DEPTH} levels")
        match value:
            case {"all": list(items), **rest} if items and not rest:
                conditions = [parse_node(item, f"{pointer}/all/{index}", depth + 1) for index, item in enumerate(items)]
                return lambda data: all(condition(data) for condition in conditions)
            case {"any": list(items), **rest} if items and not rest:
                alternatives = [
                    parse_node(item, f"{pointer}/any/{index}", depth + 1) for index, item in enumerate(items)
                ]
                return lambda data: any(condition(data) for condition in alternatives)
            case {"not": inner, **rest} if not rest:
                negated = parse_node(inner, f"{pointer}/not", depth + 1)
                return lambda data: not negated(data)
            case {"data": str(path), **rest} if 0 < len(path) <= MAX_PATH_LENGTH:
                leaves += 1
                return parse_leaf(path, rest, pointer)
        return refuse(pointer, "must be all or any with a list of conditions, not, or data (a path) with a comparison")

    def parse_leaf(path: str, rest: dict[Any, Any], pointer: str) -> Condition:
        for extra in rest.keys() - {*comparison.OPERATORS}:
            refuse(f"{pointer}{pointer_step(extra)}", "is not a comparison operator")
        parsed = comparison.parse(rest, pointer, path)
        if isinstance(parsed, list):
            errors.extend(parsed)
            return _never
        return lambda data: parsed.matches(get_value(data, path))

    def refuse(pointer: str, detail: str) -> Condition:
        errors.append(FieldError(pointer, detail))
        return _never

    condition = parse_node(value, pointer, 1)
    if leaves > MAX_LEAVES:
        refuse(pointer, f"has {leaves} leaves; at most {MAX_LEAVES} are allowed")
    if errors:
        raise ValidationError(errors)
    return condition


def get_value(data: Any, path: str) -> Any:
    """Return the value at a path such as `cart.items.0.sku`, or None if the data has no such path."""
    for name in path.split("."):
        if isinstance(data, dict):
            data = data.get(name)
        elif isinstance(data, list) and name.isascii() and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        else:
            return None
    return data


def _never(_: Any) -> bool:
    return False
