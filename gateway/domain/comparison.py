"""Comparing what is known with what a filter asks: the leaves `attribute` of an audience and `data` of a condition.

{"attribute": "age", "gte": 18}        {"data": "cart.total", "gt": 50}
"""

import math
from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any, NamedTuple, TypeGuard

from gateway.domain.errors import FieldError

MAX_VALUES = 1000
ORDERINGS = ("lt", "lte", "gt", "gte")
OPERATORS = ("eq", "ne", "in", *ORDERINGS, "exists", "contains")

Scalar = str | int | float | bool

_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {"lt": lt, "lte": le, "gt": gt, "gte": ge}


class Comparison(NamedTuple):
    operator: str
    operand: Scalar | tuple[Scalar, ...]

    def matches(self, value: object) -> bool:
        """Whether a value of JSON fits; None is one that is not there, and fits only `ne` and `exists: false`.

        Ordering compares numbers with numbers and text with text. `contains` is a list that has the value, or text
        that has it as a part.
        """
        match self.operator:
            case "exists":
                return (value is not None) is self.operand
            case "eq":
                return _same(value, self.operand)
            case "ne":
                return not _same(value, self.operand)
            case "in":
                return isinstance(self.operand, tuple) and any(_same(value, one) for one in self.operand)
            case "contains" if isinstance(value, list):
                return any(_same(one, self.operand) for one in value)
            case "contains":
                return isinstance(value, str) and isinstance(self.operand, str) and self.operand in value
        comparable = (is_number(value) and is_number(self.operand)) or (
            isinstance(value, str) and isinstance(self.operand, str)
        )
        return comparable and _ORDERED[self.operator](value, self.operand)


def parse(value: Mapping[str, Any], at: str, name: str) -> Comparison | list[FieldError]:
    """The one comparison in a leaf about `name`, or its faults."""
    operators = [key for key in value if key in OPERATORS]
    if len(operators) != 1:
        return [FieldError(at, f"must compare {name!r} by exactly one of {', '.join(OPERATORS)}")]
    [operator] = operators
    operand, where = value[operator], f"{at}/{operator}"
    if operator == "in":
        if not isinstance(operand, list) or not 0 < len(operand) <= MAX_VALUES:
            return [FieldError(where, f"must be a list of 1 to {MAX_VALUES} values")]
        bad = [index for index, item in enumerate(operand) if not is_scalar(item)]
        faults = [FieldError(f"{where}/{index}", "must be text, a finite number or a boolean") for index in bad]
        return faults or Comparison(operator, tuple(operand))
    if operator == "exists":
        if not isinstance(operand, bool):
            return [FieldError(where, "must be true or false")]
    elif operator in ORDERINGS:
        if isinstance(operand, bool) or not is_scalar(operand):
            return [FieldError(where, "must be text or a finite number")]
    elif not is_scalar(operand):
        return [FieldError(where, "must be text, a finite number or a boolean")]
    return Comparison(operator, operand)


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_scalar(value: object) -> TypeGuard[Scalar]:
    return isinstance(value, bool) or is_number(value) or (isinstance(value, str) and len(value) <= 1000)


def _same(held: object, operand: object) -> bool:
    """JSON's equality: 1 is 1.0, and true is not 1."""
    return isinstance(held, bool) == isinstance(operand, bool) and held == operand
