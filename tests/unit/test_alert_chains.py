"""Chains of alerts: which parts a message ends, which tags continue, and who receives a cancellation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import ids
from gateway.domain.alert import AlertInfo, LocalizedText, MessageType
from gateway.domain.json_object import JsonObject
from gateway.records.alerts import AlertPart, StoredAlert
from gateway.service.alerts.chains import EVERYWHERE, assign_tags, end_everywhere, end_in_areas, plan_cancellations

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ZONES = tuple("ABCDEF")


def build_info(event: str, zones: Sequence[str], language: str = "en") -> AlertInfo:
    """Return an info block for zones, in one language."""
    return AlertInfo((LocalizedText(language, event),), {"zone": [*zones]} if zones else None)


@dataclass
class World:
    """A chain with one device in each zone, and the notifications that each device received.

    It does with the planning functions what `ingest` does, and evaluates audiences as the database does.
    """

    chain: list[StoredAlert] = field(default_factory=list)
    # By device: (notification, tag, whether it is a cancellation), in the order of their arrival.
    received: dict[str, list[tuple[UUID, str, bool]]] = field(default_factory=lambda: {zone: [] for zone in ZONES})

    def ingest(self, message_type: MessageType, infos: Sequence[AlertInfo]) -> None:
        """Apply a message that refers to all messages of the chain before it."""
        tags = assign_tags(self.chain, self.chain, infos, "storm")
        alert = StoredAlert(
            id=uuid4(), chain=uuid4(), tag="storm", identifier=str(len(self.chain)), message_type=message_type,
            sent=NOW, refers_to=(), event_keys=(), parts=[], expires_at=NOW + timedelta(hours=1), created_at=NOW,
        )  # fmt: skip
        for info, tag in zip(infos, tags, strict=True):
            part = AlertPart(tag, events={text.language or "": text.event for text in info.texts})
            if message_type is not MessageType.CANCEL:
                part.area = part.scope = info.area
            alert.parts.append(part)
        if message_type is MessageType.UPDATE:
            end_everywhere(self.chain)
        elif message_type is MessageType.CANCEL:
            end_in_areas(self.chain, infos)
        for part in alert.parts:
            if part.area is not None:
                part.notified_by.append(self._send(part.area, part.tag, is_cancellation=False))
        if message_type is not MessageType.ALERT:
            cancellations = plan_cancellations(self.chain, alert, NOW)
            audiences = [self._select(cancellation.audience) for cancellation in cancellations]
            for cancellation, devices in zip(cancellations, audiences, strict=True):
                id_ = self._deliver(devices, cancellation.tag, is_cancellation=True)
                alert.parts.append(AlertPart(cancellation.tag, cancelled_by=[id_]))
        self.chain.append(alert)

    def live_zones(self) -> set[str]:
        """Return the zones in which a part of the chain is in effect."""
        areas = [part.area for stored in self.chain for part in stored.parts if part.area is not None]
        return {zone for area in areas for zone in ZONES if self._matches(area, zone)}

    def _send(self, audience: JsonObject, tag: str, *, is_cancellation: bool) -> UUID:
        return self._deliver(self._select(audience), tag, is_cancellation=is_cancellation)

    def _deliver(self, devices: Sequence[str], tag: str, *, is_cancellation: bool) -> UUID:
        id_ = uuid4()
        for device in devices:
            self.received[device].append((id_, tag, is_cancellation))
        return id_

    def _select(self, audience: JsonObject) -> list[str]:
        return [device for device in ZONES if self._matches(audience, device)]

    def _matches(self, audience: Any, device: str) -> bool:
        match audience:
            case {"everyone": True}:
                return True
            case {"zone": codes}:
                return device in codes
            case {"notified": names}:
                return bool({*names} & {ids.format_id(ids.NOTIFICATION, id_) for id_, _, _ in self.received[device]})
            case {"not": negated}:
                return not self._matches(negated, device)
            case {"all": branches}:
                return all(self._matches(branch, device) for branch in branches)
            case {"any": branches}:
                return any(self._matches(branch, device) for branch in branches)
        raise AssertionError(audience)


infos = st.lists(
    st.builds(
        build_info,
        st.sampled_from(["Storm", "Flood", "Frost"]),
        st.lists(st.sampled_from(ZONES), min_size=1, max_size=3, unique=True),
        st.sampled_from(["en", "fr"]),
    ),
    min_size=1,
    max_size=4,
)
changes = st.lists(st.tuples(st.sampled_from([MessageType.UPDATE, MessageType.CANCEL]), infos), max_size=6)


@given(infos, changes)
def test_cancellation_reaches_exactly_devices_that_left(
    first: list[AlertInfo], later: list[tuple[MessageType, list[AlertInfo]]]
) -> None:
    """No device inside a live part receives a cancellation, and each device that left all parts receives one.

    The parts of the messages are in any order, and are added, ended, moved, split and merged.
    """
    world = World()
    world.ingest(MessageType.ALERT, first)
    for message_type, parts in later:
        before = {device: len(received) for device, received in world.received.items()}
        was_warned = {device for device, received in world.received.items() if received and not received[-1][2]}
        world.ingest(message_type, parts)
        live = world.live_zones()
        for device, received in world.received.items():
            new = received[before[device] :]
            cancellations = [tag for _, tag, is_cancellation in new if is_cancellation]
            if device in live:
                assert cancellations == []
            else:
                assert len(cancellations) == (device in was_warned)
            warned_tags = {tag for _, tag, is_cancellation in received[: before[device]] if not is_cancellation}
            assert {*cancellations} <= warned_tags, "a cancellation has a tag that no warning had"
            warnings = [tag for _, tag, is_cancellation in new if not is_cancellation]
            assert len({*warnings}) == len(warnings), "two warnings of one message have the same tag"


@given(infos, st.randoms(use_true_random=False))
def test_repeated_parts_keep_their_tags_in_any_order(parts: list[AlertInfo], random: Any) -> None:
    """An Update with the same parts in another order gives each part the tag that it had."""
    distinct = list({(info.texts[0].event, *sorted(info.area["zone"])): info for info in parts if info.area}.values())
    world = World()
    world.ingest(MessageType.ALERT, distinct)
    first = {id(info): part.tag for info, part in zip(distinct, world.chain[0].parts, strict=True)}
    shuffled = random.sample(distinct, len(distinct))
    tags = assign_tags(world.chain, world.chain, shuffled, "storm")
    assert tags == [first[id(info)] for info in shuffled]


def test_update_without_a_part_ends_that_part_only() -> None:
    """An Update that names the second of two parts keeps its tag, and ends the first part only."""
    world = World()
    world.ingest(MessageType.ALERT, [build_info("Storm", "A"), build_info("Storm", "B")])
    world.ingest(MessageType.UPDATE, [build_info("Storm", "B")])
    assert [(tag, is_cancellation) for _, tag, is_cancellation in world.received["A"]] == [
        ("storm", False),
        ("storm", True),
    ]
    assert [(tag, is_cancellation) for _, tag, is_cancellation in world.received["B"]] == [("storm#2", False)] * 2


def test_partial_cancel_ends_the_part_of_its_event() -> None:
    """A Cancel of the flood in a zone leaves the storm in the same zone in effect."""
    world = World()
    world.ingest(MessageType.ALERT, [build_info("Storm", "AB"), build_info("Flood", "AC")])
    world.ingest(MessageType.CANCEL, [build_info("Flood", "AC")])
    assert world.live_zones() == {"A", "B"}
    assert [is_cancellation for _, _, is_cancellation in world.received["A"]] == [False, False]
    assert [is_cancellation for _, _, is_cancellation in world.received["C"]] == [False, True]


def test_disjoint_parts_after_a_split_share_the_tag() -> None:
    """When a part is split into two parts that do not overlap, both have its tag and replace its notification."""
    world = World()
    world.ingest(MessageType.ALERT, [build_info("Storm", "AB")])
    world.ingest(MessageType.UPDATE, [build_info("Storm", "A"), build_info("Storm", "B")])
    assert [{tag for _, tag, _ in world.received[device]} for device in "AB"] == [{"storm"}, {"storm"}]


def test_alert_in_effect_everywhere_is_not_ended_in_an_area() -> None:
    """A Cancel for an area does not end an alert without an area, which is in effect everywhere."""
    world = World()
    world.ingest(MessageType.ALERT, [AlertInfo((LocalizedText("en", "Storm"),), EVERYWHERE)])
    world.ingest(MessageType.CANCEL, [build_info("Storm", "A")])
    assert world.live_zones() == {*ZONES}
