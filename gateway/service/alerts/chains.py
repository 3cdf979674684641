"""Decide what a message changes in its chain: which parts end, which tags continue, and who receives a cancellation.

A part is an info block of an alert. Its identity is its event and its area, never its position in the document. All
functions are free of I/O.

A cancellation is sent only to devices that received a warning, received no cancellation since, and are outside every
area in which any part of the chain is in effect. When the parts of a message cannot be matched with certainty, the
earlier part stays in effect: a device is better warned too long than told too early that the danger is over.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from gateway.alerting.areas import Extent, subtract, union
from gateway.domain import ids
from gateway.domain.alert import AlertInfo
from gateway.domain.comparison import MAX_VALUES
from gateway.domain.json_object import JsonObject
from gateway.records.alerts import AlertPart, StoredAlert

# Number of latest messages in a chain whose recipients are computed message by message. Older messages are treated as
# one, to bound the size of the audience.
MAX_STAGES = 20

# Maximum cancellations of one message. Each replaces the notifications with one tag; the last one replaces those of one
# tag and is also sent for all remaining tags.
MAX_CANCELLATIONS = 20

# Maximum pairs of an earlier part and an info block whose areas are tested for overlap. In longer messages, a tag
# continues only in a part with the same area or the same event.
MAX_COMPARISONS = 2_500

EVERYWHERE = {"everyone": True}


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A cancellation to send. `part` is the latest warning with the tag."""

    tag: str
    part: AlertPart
    audience: JsonObject


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a part says: its event names in all languages, and its area. Without an area it is in effect everywhere."""

    events: frozenset[str]
    extent: Extent | None

    def has_event_of(self, other: "_Identity") -> bool:
        return not self.events.isdisjoint(other.events)

    def has_area_of(self, other: "_Identity") -> bool:
        if self.extent is None or other.extent is None:
            return self.extent is other.extent
        return self.extent.key == other.extent.key

    def overlaps(self, other: "_Identity") -> bool:
        return self.extent is None or other.extent is None or self.extent.overlaps(other.extent)


def assign_tags(
    chain: Sequence[StoredAlert], affected: Sequence[StoredAlert], infos: Sequence[AlertInfo], base: str
) -> list[str]:
    """Return the notification tag of each info block: that of the earlier part that it continues, or a new one.

    An info block continues a part of the same event and area, else of the same event in an overlapping area, else a
    part that no other block continues: in an overlapping area, or of the same event. One part and one block always
    continue each other. Blocks of one message share a tag only if their areas do not overlap, since a notification
    replaces an earlier one with the same tag.
    """
    earlier = _latest_identities(affected)
    blocks = [_Identity(_event_names(text.event for text in info.texts), _extent(info.area)) for info in infos]
    tags: dict[int, str] = {}
    has_overlap_tests = len(blocks) * sum(map(len, earlier.values())) <= MAX_COMPARISONS
    for rank in range(4) if has_overlap_tests else (0, 3):
        for number, block in enumerate(blocks):
            if number in tags:
                continue
            for tag, parts in earlier.items():
                if not any(_continues(block, part, rank) for part in parts):
                    continue
                takers = [blocks[other] for other, taken in tags.items() if taken == tag]
                if any(rank > 1 or block.overlaps(taker) for taker in takers):
                    continue
                tags[number] = tag
                break
    if len(blocks) == len(earlier) == 1:
        tags[0] = next(iter(earlier))
    used = {part.tag for stored in chain for part in stored.parts} | {*tags.values()}
    new_tags = (tag for number in range(len(used) + len(blocks)) if (tag := number_tag(base, number)) not in used)
    return [tags[number] if number in tags else next(new_tags) for number in range(len(blocks))]


def _latest_identities(affected: Sequence[StoredAlert]) -> dict[str, list[_Identity]]:
    """Return the identities of the parts of each tag in the last message that has a part with this tag."""
    identities: dict[str, list[_Identity]] = {}
    for stored in affected:
        latest: dict[str, list[_Identity]] = {}
        for part in stored.parts:
            if part.scope is not None:
                area = None if part.scope == EVERYWHERE else part.scope
                latest.setdefault(part.tag, []).append(_Identity(_event_names(part.events.values()), _extent(area)))
        identities |= latest
    return identities


def _continues(block: _Identity, part: _Identity, rank: int) -> bool:
    """Return whether a block continues a part by the criterion of a rank; lower ranks are stronger."""
    match rank:
        case 0:
            return block.has_event_of(part) and block.has_area_of(part)
        case 1:
            return block.has_event_of(part) and block.overlaps(part)
        case 2:
            return block.overlaps(part)
        case _:
            return block.has_event_of(part)


def _extent(area: JsonObject | None) -> Extent | None:
    return None if area is None else Extent(area)


def _event_names(events: Any) -> frozenset[str]:
    return frozenset(event.casefold() for event in events)


def number_tag(tag: str, number: int) -> str:
    """Return a tag derived from the tag of a chain."""
    return tag if number == 0 else f"{tag[:250]}#{number + 1}"


def end_everywhere(affected: Sequence[StoredAlert]) -> list[AlertPart]:
    """End all parts of these alerts, and return those that were in effect."""
    ended = [part for stored in affected for part in stored.parts if part.area is not None]
    for part in ended:
        part.area = None
    return ended


def end_in_areas(affected: Sequence[StoredAlert], infos: Sequence[AlertInfo]) -> list[AlertPart]:
    """End the parts of these alerts in the areas of info blocks, and return the parts that changed.

    A block ends the parts of its event, or of every event if no part has its event. A block without an area ends them
    everywhere; so do no blocks at all.
    """
    if not infos:
        return end_everywhere(affected)
    parts = [part for stored in affected for part in stored.parts if part.area is not None]
    part_events = [_event_names(part.events.values()) for part in parts]
    remaining = [part.area for part in parts]
    for info in infos:
        events = _event_names(text.event for text in info.texts)
        matching = [number for number, names in enumerate(part_events) if names & events]
        for number in matching or range(len(parts)):
            remaining[number] = _subtract(remaining[number], info.area)
    changed = [(part, area) for part, area in zip(parts, remaining, strict=True) if area != part.area]
    for part, area in changed:
        part.area = area
    return [part for part, _ in changed]


def _subtract(area: JsonObject | None, without: JsonObject | None) -> JsonObject | None:
    """Subtract an area, None for all areas. A part that is in effect everywhere cannot be ended in one area only."""
    if area is None or without is None:
        return None
    if area == EVERYWHERE:
        return area
    remainder = subtract(area, without)
    return area if remainder is not None and Extent(remainder).key == Extent(area).key else remainder


def plan_cancellations(chain: Sequence[StoredAlert], new_alert: StoredAlert, now: datetime) -> list[Cancellation]:
    """Return the cancellations to send after a message: one for each tag, each device in at most one audience.

    `chain` has the earlier messages, oldest first. A device that received warnings with several tags is in the audience
    of the tag that was used last.
    """
    latest: dict[str, AlertPart] = {}
    for part in (part for stored in reversed(chain) for part in stored.parts if part.notified_by):
        latest.setdefault(part.tag, part)
    in_effect = [stored for stored in (*chain, new_alert) if stored.expires_at > now]
    live = [part.area for stored in in_effect for part in stored.parts if part.area is not None]
    live_area = EVERYWHERE if EVERYWHERE in live else union(live)
    outside: list[JsonObject] = [] if live_area is None else [{"not": live_area}]
    tags = list(latest)
    groups = [[tag] for tag in tags[: MAX_CANCELLATIONS - 1]]
    groups += [rest] if (rest := tags[MAX_CANCELLATIONS - 1 :]) else []
    cancellations: list[Cancellation] = []
    earlier: list[str] = []
    for group in groups:
        in_other_audience = [{"not": warned_audience(chain, earlier)}] if earlier else []
        audience = all_of([warned_audience(chain, group), *in_other_audience, *outside])
        cancellations.append(Cancellation(group[0], latest[group[0]], audience))
        earlier += group
    return cancellations


def warned_audience(chain: Sequence[StoredAlert], tags: Collection[str]) -> JsonObject:
    """Return the audience of the devices that received a warning with one of the tags, and no cancellation since.

    A cancellation of any tag counts. That of a message follows the warnings of the same message.
    """
    cancellations: list[UUID] = []
    branches: list[tuple[list[UUID], list[UUID]]] = []
    stages = [[stored] for stored in reversed(chain[-MAX_STAGES:])] + [list(chain[:-MAX_STAGES])]
    for number, stage in enumerate(stages):
        parts = [part for stored in stage for part in stored.parts]
        if number < MAX_STAGES:
            cancellations = [*cancellations, *(id_ for part in parts for id_ in part.cancelled_by)]
        warnings = [id_ for part in parts if part.tag in tags for id_ in part.notified_by]
        if warnings and branches and branches[-1][1] == cancellations:
            branches[-1][0].extend(warnings)
        elif warnings:
            branches.append((warnings, cancellations))
    return _any_of(
        [
            all_of([notified_by(warnings), *([{"not": notified_by(sent)}] if sent else [])])
            for warnings, sent in branches
        ]
    )


def notified_by(notification_ids: Sequence[UUID]) -> JsonObject:
    """Return the audience of the devices that received one of the notifications."""
    names = [ids.format_id(ids.NOTIFICATION, id_) for id_ in notification_ids]
    return _any_of([{"notified": names[at : at + MAX_VALUES]} for at in range(0, len(names), MAX_VALUES)])


def all_of(conditions: Sequence[Any]) -> JsonObject:
    """Return the audience that meets all conditions."""
    return cast("JsonObject", conditions[0] if len(conditions) == 1 else {"all": list(conditions)})


def _any_of(conditions: Sequence[Any]) -> JsonObject:
    return cast("JsonObject", conditions[0] if len(conditions) == 1 else {"any": list(conditions)})
