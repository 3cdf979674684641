"""A condition over an event's data, in the shape of an audience.

    {"all": [{"data": "cart.total", "gte": 50}, {"not": {"data": "cart.items.0.sku", "in": ["A1", "B2"]}}]}

`data` is a path of names and list places into the event's data. Nothing else of the event can be asked for, and
nothing is computed: it is safe to take from anyone who may make a trigger.
"""

from collections.abc import Callable
from typing import Any

from gateway.domain import comparison
from gateway.domain.errors import FieldError, ValidationError, pointer_step

MAX_DEPTH = 16
MAX_LEAVES = 200
MAX_PATH_LENGTH = 200

Condition = Callable[[Any], bool]
"""Whether an event's data fits."""


def parse(value: object, pointer: str = "/condition") -> Condition:
    """Raises Invalid with every fault and its pointer."""
    faults: list[FieldError] = []
    leaves = 0

    def read(value: object, at: str, depth: int) -> Condition:
        nonlocal leaves
        if depth > MAX_DEPTH:
            return refuse(at, f"is nested deeper than {MAX_DEPTH} levels")
        match value:
            case {"all": list(several), **rest} if several and not rest:
                every = [read(one, f"{at}/all/{index}", depth + 1) for index, one in enumerate(several)]
                return lambda data: all(one(data) for one in every)
            case {"any": list(several), **rest} if several and not rest:
                some = [read(one, f"{at}/any/{index}", depth + 1) for index, one in enumerate(several)]
                return lambda data: any(one(data) for one in some)
            case {"not": inner, **rest} if not rest:
                negated = read(inner, f"{at}/not", depth + 1)
                return lambda data: not negated(data)
            case {"data": str(path), **rest} if 0 < len(path) <= MAX_PATH_LENGTH:
                leaves += 1
                return leaf(path, rest, at)
        return refuse(at, "must be one of all, any (lists of at least one), not, or data (a path) with a comparison")

    def leaf(path: str, rest: dict[Any, Any], at: str) -> Condition:
        for extra in rest.keys() - {*comparison.OPERATORS}:
            refuse(f"{at}{pointer_step(extra)}", "is not known beside data")
        compared = comparison.parse(rest, at, path)
        if isinstance(compared, list):
            faults.extend(compared)
            return _never
        return lambda data: compared.matches(get_value(data, path))

    def refuse(at: str, detail: str) -> Condition:
        faults.append(FieldError(at, detail))
        return _never

    condition = read(value, pointer, 1)
    if leaves > MAX_LEAVES:
        refuse(pointer, f"has {leaves} leaves; at most {MAX_LEAVES} are allowed")
    if faults:
        raise ValidationError(faults)
    return condition


def get_value(data: Any, path: str) -> Any:
    """The value at a path such as `cart.items.0.sku`; None when there is none."""
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
