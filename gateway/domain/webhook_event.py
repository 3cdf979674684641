"""What an application can be told of by webhook: the types of events, and the patterns that ask for them."""

from collections.abc import Iterable

from gateway.domain.delivery import OutcomeName

SETTLED = {f"delivery.{outcome}": outcome for outcome in OutcomeName}
"""Ends of deliveries. They are in the log already; everything else is written down when a webhook asks for it."""

NOTED = (
    *(f"delivery.{event}" for event in ("displayed", "clicked", "dismissed")),
    *(f"device.{change}" for change in ("registered", "changed", "gone", "unregistered")),
    *(f"notification.{step}" for step in ("accepted", "started", "done", "cancelled", "paused", "resumed")),
)

TEST = "webhook.test"
"""Sent on demand, whatever a webhook asks for."""

TYPES = (*SETTLED, *NOTED)
PATTERNS = ("*", *sorted({f"{type_.partition('.')[0]}.*" for type_ in TYPES}), *TYPES)


def forms(type_: str) -> list[str]:
    """The patterns that ask for this type: itself, its family, everything."""
    return [type_, f"{type_.partition('.')[0]}.*", "*"]


def is_subscribed(patterns: Iterable[str], among: Iterable[str] = TYPES) -> list[str]:
    """The types that these patterns ask for."""
    wanted = set(patterns)
    return [type_ for type_ in among if not wanted.isdisjoint(forms(type_))]
