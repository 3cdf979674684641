"""Identifiers, and the small rules of notifications."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
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
KINDS = (ids.APPLICATION, ids.KEY, ids.DEVICE, ids.NOTIFICATION)


def notification(**changes: object) -> Notification:
    said = {
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
    return Notification(**(said | changes))  # type: ignore[arg-type] - said by name


def test_a_new_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = ids.new_id()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= after


def test_new_ids_are_unlike_each_other() -> None:
    assert len({ids.new_id() for _ in range(10_000)}) == 10_000


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.uuids())
def test_what_is_shown_is_read_back_as_its_own_kind_only(kind: str, other: str, id_: UUID) -> None:
    shown = ids.format_id(kind, id_)
    assert ids.parse(kind, shown) == id_
    if other != kind:
        assert ids.parse(other, shown) is None
    assert ids.parse_delivery(shown) is None


@settings(deadline=None)
@given(st.uuids(), st.uuids())
def test_a_delivery_s_id_names_its_notification_and_its_device(one: UUID, other: UUID) -> None:
    assert ids.parse_delivery(ids.format_id(ids.DELIVERY, one, other)) == (one, other)


@pytest.mark.parametrize(
    "text", ["", "dev_", "dev_" + "g" * 32, "dev_" + "a" * 31, "dev_" + "A" * 32, "dev_" + "a" * 32 + "\n"]
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert ids.parse(ids.DEVICE, text) is None
    assert ids.parse_delivery(text) is None


@settings(deadline=None)
@given(st.uuids(), st.text())
def test_a_push_topic_is_always_32_base64url_characters(application_id: UUID, tag: str) -> None:
    topic = push_topic(application_id, tag)
    assert len(topic) == 32
    assert topic.isascii()
    assert topic.replace("-", "").replace("_", "").isalnum()


def test_topics_of_different_applications_never_fold_into_each_other() -> None:
    assert push_topic(UUID(int=1), "storm") != push_topic(UUID(int=2), "storm")
    assert push_topic(UUID(int=1), "storm") == push_topic(UUID(int=1), "storm")


def test_the_tag_is_the_content_s_else_the_collapse_key_else_the_id() -> None:
    keyed = DeliveryOptions(Lane.NORMAL, Urgency.NORMAL, timedelta(hours=1), NOW, "key")
    assert notification(delivery=keyed).tag_for({"title": "x", "tag": "own"}) == "own"
    assert notification(delivery=keyed).tag_for({"title": "x"}) == "key"
    assert notification().tag_for({"title": "x"}) == str(UUID(int=7))


def test_a_ttl_of_0_leaves_the_queue_a_minute() -> None:
    assert compute_expiry(NOW, timedelta(0)) == NOW + MIN_LIFETIME
    assert compute_expiry(NOW, timedelta(hours=1)) == NOW + timedelta(hours=1)


def test_urgent_goes_before_normal_before_bulk() -> None:
    assert sorted([Lane.BULK, Lane.URGENT, Lane.NORMAL]) == [Lane.URGENT, Lane.NORMAL, Lane.BULK]
    assert [Lane.from_label(lane.label) for lane in Lane] == list(Lane)


def test_pending_is_what_has_no_end_yet() -> None:
    progress = Progress(targets=20, accepted=5, gone=4, rejected=3, expired=2, cancelled=1, retries=9, displayed=5)
    assert progress.pending == 5


def test_every_final_outcome_has_its_count() -> None:
    assert {name.value for name in OutcomeName} <= set(Progress.__dataclass_fields__)
    assert Retry("x").name not in set(OutcomeName)


def test_a_settlement_counts_ended_and_retried_devices() -> None:
    one = DeliveryResult(UUID(int=1), None, "host", Accepted(), 1, 201, NOW, 3, NOW)
    gone = one._replace(device_id=UUID(int=2), outcome=Gone("x"))
    later = {(NOW, 1): [UUID(int=3), UUID(int=4)], (NOW, 2): [UUID(int=5)]}
    assert ResultBatch([one, gone], [], later).count_devices() == 5


def test_invalid_input_tells_every_fault_and_where() -> None:
    refused = ValidationError([FieldError("/a", "is missing"), FieldError("", "is odd").with_prefix("/b")])
    assert str(refused) == "/a: is missing; /b: is odd"
    assert [fault.pointer for fault in refused.errors] == ["/a", "/b"]


def test_every_refusal_has_a_code_of_its_own_and_a_status() -> None:
    def below(kind: type[GatewayError]) -> list[type[GatewayError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    refusals = [kind for kind in below(GatewayError) if kind.__module__ == "gateway.domain.errors"]
    assert len({kind.code for kind in refusals}) == len(refusals) > 10
    assert all(400 <= kind.status < 600 for kind in refusals)
