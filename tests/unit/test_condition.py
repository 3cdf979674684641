"""Conditions on the data of an event, errors in conditions, and event values that are bound in audiences."""

from typing import Any

import pytest

from gateway.domain import condition, event_binding
from gateway.domain.errors import ValidationError

EVENT_DATA = {
    "cart": {"total": 59.9, "items": [{"sku": "A1"}, {"sku": "B2"}], "tags": ["new", 3], "open": True},
    "n": None,
}


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ({"data": "cart.total", "gte": 50}, True),
        ({"data": "cart.total", "gt": 59.9}, False),
        ({"data": "cart.total", "lt": "a"}, False),
        ({"data": "cart.items.1.sku", "eq": "B2"}, True),
        ({"data": "cart.items.2.sku", "eq": "B2"}, False),
        ({"data": "cart.items.2.sku", "ne": "B2"}, True),
        ({"data": "cart.items.0.sku", "in": ["A1", "Z"]}, True),
        ({"data": "cart.tags", "contains": "new"}, True),
        ({"data": "cart.tags", "contains": 3.0}, True),
        ({"data": "cart.items.0.sku", "contains": "A"}, True),
        ({"data": "cart.open", "eq": 1}, False),
        ({"data": "cart.open", "eq": True}, True),
        ({"data": "n", "exists": True}, False),
        ({"data": "n", "exists": False}, True),
        ({"data": "cart", "exists": True}, True),
        ({"data": "cart.total.x", "exists": False}, True),
        ({"all": [{"data": "cart.open", "eq": True}, {"not": {"data": "cart.total", "lt": 10}}]}, True),
        ({"any": [{"data": "cart.open", "eq": False}, {"data": "x", "exists": True}]}, False),
    ],
)
def test_condition_matches_event_data(value: Any, matches: bool) -> None:
    """Every operator is evaluated with present values, missing values and values of another type."""
    assert condition.parse(value)(EVENT_DATA) is matches


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({}, ["/condition"]),
        ([], ["/condition"]),
        ({"all": []}, ["/condition"]),
        ({"data": "a"}, ["/condition"]),
        ({"data": "a", "eq": 1, "ne": 2}, ["/condition"]),
        ({"data": "a", "eq": [1]}, ["/condition/eq"]),
        ({"data": "a", "eq": 1, "extra": 1}, ["/condition/extra"]),
        ({"any": [{"data": "a", "in": []}, {"nope": 1}]}, ["/condition/any/0/in", "/condition/any/1"]),
        ({"data": "x" * 300, "eq": 1}, ["/condition"]),
        ({"all": [{"data": "a", "eq": 1}], "any": []}, ["/condition"]),
    ],
)
def test_condition_errors_have_pointers(value: Any, pointers: list[str]) -> None:
    """All errors of a condition are reported together."""
    with pytest.raises(ValidationError) as exc_info:
        condition.parse(value)
    assert [error.pointer for error in exc_info.value.errors] == pointers


def test_depth_and_leaves_of_a_condition_are_bounded() -> None:
    """A condition has at most 16 levels and 200 leaves."""
    deep: Any = {"data": "a", "eq": 1}
    for _ in range(20):
        deep = {"not": deep}
    with pytest.raises(ValidationError, match="deeper"):
        condition.parse(deep)
    with pytest.raises(ValidationError, match="201 leaves"):
        condition.parse({"any": [{"data": "a", "eq": 1}] * 201})


def test_audience_binds_values_of_the_event() -> None:
    """`from_event` is replaced by the event's value; a missing value raises MissingEventValue."""
    event = {"user_id": "u-1", "data": {"teams": ["a", "b"], "age": 30}}
    value = {
        "any": [
            {"user_id": {"from_event": "user_id"}},
            {"attribute": "team", "in": {"from_event": "data.teams"}},
            {"attribute": "age", "gt": {"from_event": "data.age"}},
        ]
    }
    assert event_binding.bind(value, event) == {
        "any": [{"user_id": "u-1"}, {"attribute": "team", "in": ["a", "b"]}, {"attribute": "age", "gt": 30}]
    }
    with pytest.raises(event_binding.MissingEventValue, match=r"data\.none"):
        event_binding.bind({"topic": {"from_event": "data.none"}}, event)
