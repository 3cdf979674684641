"""Ids, and short rules of gateway/domain: topics, tags, lifetimes, lanes, progress, result batches and errors."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import ids
from gateway.domain.delivery import Accepted, DeliveryResult, Gone, OutcomeName, ResultBatch, Retry
from gateway.domain.errors import FieldError, GatewayError, ValidationError
from gateway.domain.notification import (
    MIN_LIFETIME,
    DeliveryOptions,
    Kind,
    Lane,
    Notification,
    Progress,
    Status,
    Urgency,
    compute_expiry,
    push_topic,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
ID_KINDS = (ids.APPLICATION, ids.KEY, ids.DEVICE, ids.NOTIFICATION)


def build_notification(**changes: object) -> Notification:
    values = {
        "id": UUID(int=7),
        "application_id": UUID(int=1),
        "kind": Kind.DIRECT,
        "name": None,
        "status": Status.SCHEDULED,
        "day": None,
        "content": {"title": "Storm"},
        "audience": {"everyone": True},
        "delivery": DeliveryOptions(Lane.NORMAL, Urgency.NORMAL, timedelta(hours=1), NOW),
        "details": {},
        "start_at": NOW,
        "created_at": NOW,
    }
    return Notification(**(values | changes))  # type: ignore[arg-type]  # the values have several types


def test_new_id_is_a_version_7_uuid_of_now() -> None:
    """The first 48 bits are the time in milliseconds."""
    before = time.time_ns() // 1_000_000
    new_id = ids.new_id()
    after = time.time_ns() // 1_000_000
    assert (new_id.version, new_id.variant) == (7, "specified in RFC 4122")
    assert before <= new_id.int >> 80 <= after


def test_new_ids_are_unique() -> None:
    """Ten thousand ids are all different."""
    assert len({ids.new_id() for _ in range(10_000)}) == 10_000


@given(st.sampled_from(ID_KINDS), st.sampled_from(ID_KINDS), st.uuids())
def test_formatted_id_is_parsed_as_its_own_kind_only(kind: str, other: str, id_: UUID) -> None:
    """Parsing an id as another kind returns None."""
    formatted = ids.format_id(kind, id_)
    assert ids.parse(kind, formatted) == id_
    if other != kind:
        assert ids.parse(other, formatted) is None
    assert ids.parse_delivery(formatted) is None


@given(st.uuids(), st.uuids())
def test_delivery_id_has_notification_and_device(notification_id: UUID, device_id: UUID) -> None:
    """Parsing a delivery id returns the ids from which it was formatted."""
    assert ids.parse_delivery(ids.format_id(ids.DELIVERY, notification_id, device_id)) == (notification_id, device_id)


@pytest.mark.parametrize(
    "text", ["", "dev_", "dev_" + "g" * 32, "dev_" + "a" * 31, "dev_" + "A" * 32, "dev_" + "a" * 32 + "\n"]
)
def test_invalid_id_is_none(text: str) -> None:
    """Parsing returns None for a wrong length, digit or case."""
    assert ids.parse(ids.DEVICE, text) is None
    assert ids.parse_delivery(text) is None


@given(st.uuids(), st.text())
def test_push_topic_is_32_base64url_characters(application_id: UUID, tag: str) -> None:
    """RFC 8030 limits the Topic header to 32 characters of the base64url alphabet."""
    topic = push_topic(application_id, tag)
    assert len(topic) == 32
    assert topic.isascii()
    assert topic.replace("-", "").replace("_", "").isalnum()


def test_push_topics_of_applications_differ() -> None:
    """Messages of two applications with the same collapse key must not replace each other."""
    assert push_topic(UUID(int=1), "storm") != push_topic(UUID(int=2), "storm")
    assert push_topic(UUID(int=1), "storm") == push_topic(UUID(int=1), "storm")


def test_tag_is_from_content_collapse_key_or_id() -> None:
    """The tag in the content takes precedence over the collapse key, and the collapse key over the id."""
    options = DeliveryOptions(Lane.NORMAL, Urgency.NORMAL, timedelta(hours=1), NOW, "key")
    assert build_notification(delivery=options).tag_for({"title": "x", "tag": "own"}) == "own"
    assert build_notification(delivery=options).tag_for({"title": "x"}) == "key"
    assert build_notification().tag_for({"title": "x"}) == str(UUID(int=7))


def test_ttl_of_0_leaves_a_minute_to_send() -> None:
    """A message with a TTL of 0 expires after MIN_LIFETIME, because the gateway needs time to send it."""
    assert compute_expiry(NOW, timedelta(0)) == NOW + MIN_LIFETIME
    assert compute_expiry(NOW, timedelta(hours=1)) == NOW + timedelta(hours=1)


def test_lanes_are_ordered_by_urgency() -> None:
    """Sorting lanes puts the urgent lane first and the bulk lane last."""
    assert sorted([Lane.BULK, Lane.URGENT, Lane.NORMAL]) == [Lane.URGENT, Lane.NORMAL, Lane.BULK]
    assert [Lane.from_label(lane.label) for lane in Lane] == list(Lane)


def test_pending_counts_targets_without_an_outcome() -> None:
    """Targets minus final outcomes are pending; retries and displays are not subtracted."""
    progress = Progress(targets=20, accepted=5, gone=4, rejected=3, expired=2, cancelled=1, retries=9, displayed=5)
    assert progress.pending == 5


def test_every_final_outcome_has_a_counter() -> None:
    """Progress has a field for each final outcome; Retry is not final."""
    assert {name.value for name in OutcomeName} <= set(Progress.__dataclass_fields__)
    assert Retry("x").name not in set(OutcomeName)


def test_result_batch_counts_final_and_retried_devices() -> None:
    """The count includes devices with a final outcome and devices to be retried."""
    accepted = DeliveryResult(UUID(int=1), None, "host", Accepted(), 1, 201, NOW, 3, NOW)
    gone = accepted._replace(device_id=UUID(int=2), outcome=Gone("x"))
    retries = {(NOW, 1): [UUID(int=3), UUID(int=4)], (NOW, 2): [UUID(int=5)]}
    assert ResultBatch([accepted, gone], [], retries).count_devices() == 5


def test_validation_error_names_every_field_error() -> None:
    """The error's text has the pointer and the detail of each field error."""
    error = ValidationError([FieldError("/a", "is missing"), FieldError("", "is odd").with_prefix("/b")])
    assert str(error) == "/a: is missing; /b: is odd"
    assert [field_error.pointer for field_error in error.errors] == ["/a", "/b"]


def test_every_error_has_its_own_code_and_a_status() -> None:
    """Clients distinguish errors by their code."""

    def subclasses(error: type[GatewayError]) -> list[type[GatewayError]]:
        return [error, *(subclass for child in error.__subclasses__() for subclass in subclasses(child))]

    errors = [error for error in subclasses(GatewayError) if error.__module__ == "gateway.domain.errors"]
    assert len({error.code for error in errors}) == len(errors) > 10
    assert all(400 <= error.status < 600 for error in errors)
