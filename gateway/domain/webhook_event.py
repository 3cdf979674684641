"""What an application can be told of by webhook: the types of events, and the patterns that ask for them."""

from collections.abc import Iterable

from gateway.domain.delivery import OutcomeName

DELIVERY_OUTCOMES = {f"delivery.{outcome}": outcome for outcome in OutcomeName}
"""Ends of deliveries. They are in the log already; everything else is written down when a webhook asks for it."""

OUTBOX_TYPES = (
    *(f"delivery.{event}" for event in ("displayed", "clicked", "dismissed")),
    *(f"device.{change}" for change in ("registered", "changed", "gone", "unregistered")),
    *(f"notification.{step}" for step in ("accepted", "started", "done", "cancelled", "paused", "resumed")),
)

TEST_TYPE = "webhook.test"
"""Sent on demand, whatever a webhook asks for."""

TYPES = (*DELIVERY_OUTCOMES, *OUTBOX_TYPES)
PATTERNS = ("*", *sorted({f"{type_.partition('.')[0]}.*" for type_ in TYPES}), *TYPES)


def matching_patterns(type_: str) -> list[str]:
    """The patterns that ask for this type: itself, its family, everything."""
    return [type_, f"{type_.partition('.')[0]}.*", "*"]


def subscribed_types(patterns: Iterable[str], types: Iterable[str] = TYPES) -> list[str]:
    """The types that these patterns ask for."""
    wanted = set(patterns)
    return [type_ for type_ in types if not wanted.isdisjoint(matching_patterns(type_))]
