"""Comparisons of a JSON value with an operand.

They occur in audiences, as in `{"attribute": "age", "gte": 18}`, and in conditions over the data of an event, as in
`{"data": "cart.total", "gt": 50}`.
"""

import math
from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any, NamedTuple, TypeGuard

from gateway.domain.errors import FieldError

# Maximum number of values in one leaf of an audience or condition.
MAX_VALUES = 1000
ORDERINGS = ("lt", "lte", "gt", "gte")
OPERATORS = ("eq", "ne", "in", *ORDERINGS, "exists", "contains")

Scalar = str | int | float | bool

_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {"lt": lt, "lte": le, "gt": gt, "gte": ge}


class Comparison(NamedTuple):
    """An operator with its operand."""

    operator: str
    operand: Scalar | tuple[Scalar, ...]

    def matches(self, value: object) -> bool:
        """Return whether a JSON value matches. None is a missing value, which matches only `ne` and `exists: false`.

        Ordering compares numbers with numbers and text with text. `contains` matches a list with the operand as an
        element, and text with the operand as a substring.
        """
        match self.operator:
            case "exists":
                return (value is not None) is self.operand
            case "eq":
                return _equals(value, self.operand)
            case "ne":
                return not _equals(value, self.operand)
            case "in":
                return isinstance(self.operand, tuple) and any(_equals(value, item) for item in self.operand)
            case "contains" if isinstance(value, list):
                return any(_equals(item, self.operand) for item in value)
            case "contains":
                return isinstance(value, str) and isinstance(self.operand, str) and self.operand in value
        comparable = (is_number(value) and is_number(self.operand)) or (
            isinstance(value, str) and isinstance(self.operand, str)
        )
        return comparable and _ORDERED[self.operator](value, self.operand)


def parse(value: Mapping[str, Any], pointer: str, name: str) -> Comparison | list[FieldError]:
    """Parse the operator and operand of a leaf of an audience or condition.

    Args:
        value: the leaf.
        pointer: the JSON pointer of the leaf.
        name: the attribute or path that is compared, for errors.

    Returns:
        The comparison, or the errors in it.
    """
    operators = [key for key in value if key in OPERATORS]
    if len(operators) != 1:
        return [FieldError(pointer, f"must compare {name!r} by exactly one of {', '.join(OPERATORS)}")]
    [operator] = operators
    operand, operand_pointer = value[operator], f"{pointer}/{operator}"
    if operator == "in":
        if not isinstance(operand, list) or not 0 < len(operand) <= MAX_VALUES:
            return [FieldError(operand_pointer, f"must be a list of 1 to {MAX_VALUES} values")]
        invalid = [index for index, item in enumerate(operand) if not is_scalar(item)]
        errors = [
            FieldError(f"{operand_pointer}/{index}", "must be text, a finite number or a boolean") for index in invalid
        ]
        return errors or Comparison(operator, tuple(operand))
    if operator == "exists":
        if not isinstance(operand, bool):
            return [FieldError(operand_pointer, "must be true or false")]
    elif operator in ORDERINGS:
        if isinstance(operand, bool) or not is_scalar(operand):
            return [FieldError(operand_pointer, "must be text or a finite number")]
    elif not is_scalar(operand):
        return [FieldError(operand_pointer, "must be text, a finite number or a boolean")]
    return Comparison(operator, operand)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether the value is a finite number. A boolean is not a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_scalar(value: object) -> TypeGuard[Scalar]:
    """Return whether the value is a boolean, a finite number or text of at most 1000 characters."""
    return isinstance(value, bool) or is_number(value) or (isinstance(value, str) and len(value) <= 1000)


def _equals(value: object, operand: object) -> bool:
    """Compare by JSON equality: 1 equals 1.0, and true does not equal 1."""
    return isinstance(value, bool) == isinstance(operand, bool) and value == operand
