"""Event types of webhooks, and the patterns by which a webhook subscribes to them."""

from collections.abc import Iterable

from gateway.domain.delivery import OutcomeName

# Event types of final outcomes, whose events are read from the delivery log. Events of the other types are written to
# the outbox, if a webhook subscribes to them.
DELIVERY_OUTCOMES = {f"delivery.{outcome}": outcome for outcome in OutcomeName}

OUTBOX_TYPES = (
    *(f"delivery.{event}" for event in ("displayed", "clicked", "dismissed")),
    *(f"device.{change}" for change in ("registered", "changed", "gone", "unregistered")),
    *(f"notification.{step}" for step in ("accepted", "started", "done", "cancelled", "paused", "resumed")),
)

# Sent to a webhook when its owner asks for a test, regardless of the subscribed types.
TEST_TYPE = "webhook.test"

TYPES = (*DELIVERY_OUTCOMES, *OUTBOX_TYPES)
PATTERNS = ("*", *sorted({f"{type_.partition('.')[0]}.*" for type_ in TYPES}), *TYPES)


def matching_patterns(type_: str) -> list[str]:
    """Return the patterns that match a type: the type itself, its family such as `device.*`, and `*`."""
    return [type_, f"{type_.partition('.')[0]}.*", "*"]


def subscribed_types(patterns: Iterable[str], types: Iterable[str] = TYPES) -> list[str]:
    """Return the types that the patterns match."""
    subscribed = set(patterns)
    return [type_ for type_ in types if not subscribed.isdisjoint(matching_patterns(type_))]
