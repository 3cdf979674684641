"""Reminders: an occurrence starts once despite kills, a missed one is sent or skipped, and changes apply at once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from gateway.domain import ids
from gateway.domain.notification import Kind, Status
from gateway.domain.schedule import Recurrence
from gateway.records.postgres import notifier
from gateway.records.postgres.schema import jobs
from gateway.records.postgres.schema import notifications as table
from gateway.service.automation import reminders
from gateway.service.notifications import lifecycle
from gateway.service.notifications.submission import Draft
from gateway.sim import Vendor
from tests.support.api import Api, serve_api
from tests.support.gateway_parts import Parts
from tests.support.worker_process import worker_process

WEEKLY = {"name": "Digest", "cron": "0 9 * * 1", "content": {"title": "This week"}, "audience": {"everyone": True}}


async def create_reminder_every(parts: Parts, seconds: int = 1, **fields: Any) -> UUID:
    """Create a reminder with a shorter interval than the API allows."""
    draft = Draft(Kind.REMINDER, {"title": "Again"}, {"everyone": True})
    fields = {"ends_at": None, "missed": "skip", **fields}
    async with parts.engine.begin() as conn:
        reminder = await reminders.create(
            conn, parts.context, parts.application_id, "r", Recurrence(f"*/{seconds} * * * * *"), draft=draft, **fields
        )
    reminder_id = ids.parse(ids.REMINDER, reminder["id"])
    assert reminder_id is not None
    return reminder_id


async def list_occurrences(parts: Parts) -> list[Any]:
    """Return all notifications in the order of their occurrences."""
    async with parts.engine.connect() as conn:
        return list((await conn.execute(select(table).order_by(table.c.occurrence))).all())


async def wait_until_done(parts: Parts, count: int) -> None:
    """Wait until `count` notifications are done."""
    async with asyncio.timeout(60):
        with parts.notifier.subscribe(notifier.LOG) as waiter:
            while await parts.scalar("SELECT count(*) FROM notifications WHERE status = 'done'") < count:
                await waiter.wait(0.5)


async def shift_into_the_past(parts: Parts, lateness: timedelta) -> None:
    """Move all pending occurrences and jobs into the past, as after a downtime."""
    async with parts.engine.begin() as conn:
        shifted = {"start_at": table.c.start_at - lateness, "expires_at": table.c.expires_at - lateness}
        await conn.execute(
            update(table).where(table.c.day.is_(None)).values(occurrence=table.c.occurrence - lateness, **shifted)
        )
        await conn.execute(update(jobs).values(run_at=jobs.c.run_at - lateness))
        await notifier.notify(conn, notifier.JOBS)


async def test_every_occurrence_is_one_notification(parts: Parts) -> None:
    """A reminder with an interval of one second has a notification for every second."""
    await parts.register(parts.subscribe(Vendor.FCM, 2))
    await create_reminder_every(parts)
    async with parts.run_worker():
        await wait_until_done(parts, 3)
    done = [row for row in await list_occurrences(parts) if row.status == "done"]
    assert [row.occurrence.microsecond for row in done] == [0] * len(done)
    gaps = {later.occurrence - earlier.occurrence for earlier, later in pairwise(done)}
    assert gaps == {timedelta(seconds=1)}
    assert {row.kind for row in done} == {"reminder"}
    assert parts.sim.messages.total >= 6


# Seven processes start; on a busy machine that takes most of the time.
@pytest.mark.timeout(300)
async def test_kills_of_workers_start_each_occurrence_once(parts: Parts, tmp_path: Path) -> None:
    """With two servers and three workers, of which two are killed repeatedly, every occurrence starts once."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 5))
    await create_reminder_every(parts)
    directories = [tmp_path / str(number) for number in range(3)]
    for directory in directories:
        directory.mkdir()
    # A lease ends in a moment after a kill, but not while a busy machine lets a living worker wait.
    settings = {"lease": 3, "drain": 0.2}
    async with serve_api(parts), serve_api(parts), worker_process(parts, directories[0], **settings):
        for expected in (2, 4, 6):
            async with (
                worker_process(parts, directories[1], **settings) as first,
                worker_process(parts, directories[2], **settings) as second,
            ):
                await first.wait_for_log("worker.started")
                await second.wait_for_log("worker.started")
                await wait_until_done(parts, expected)
                await first.kill()
                await second.kill()
                await wait_until_done(parts, expected + 1)
    rows = await list_occurrences(parts)
    assert len({row.occurrence for row in rows}) == len(rows)
    started = [row for row in rows if row.day is not None]
    assert len(started) >= 7
    for row in started:
        rows_by_device = await parts.list_deliveries(row.id)
        assert rows_by_device.keys() <= devices.keys()
        progress = (await parts.get_notification(row.id))[1]
        assert progress.targets == 5
    sent = Counter(message.json()["notification"]["data"]["gateway"]["id"] for message in parts.sim.messages)
    # A kill may repeat the messages in flight, but all messages are of the occurrences that started.
    assert set(sent) <= {ids.format_id(ids.NOTIFICATION, row.id) for row in started}


async def test_missed_occurrence_is_skipped_with_a_reason(parts: Parts) -> None:
    """An occurrence missed during downtime is skipped with a reason."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    await create_reminder_every(parts)
    await shift_into_the_past(parts, timedelta(hours=3))
    async with parts.run_worker():
        await wait_until_done(parts, 1)
    missed, *later = await list_occurrences(parts)
    assert (missed.status, missed.day) == ("cancelled", None)
    assert "late" in missed.details["missed"]
    assert missed.finished_at is not None
    assert later[0].occurrence > datetime.now(UTC) - timedelta(minutes=1)


async def test_one_missed_occurrence_is_sent_if_configured(parts: Parts) -> None:
    """Of many missed occurrences one is sent when `missed` is "send"."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    await create_reminder_every(parts, missed="send")
    await shift_into_the_past(parts, timedelta(days=3))  # longer than the lifetime of an occurrence
    async with parts.run_worker():
        await wait_until_done(parts, 2)
    first, second = (await list_occurrences(parts))[:2]
    assert (await parts.get_notification(first.id))[1].accepted == 1
    assert second.occurrence - first.occurrence > timedelta(days=2)


async def test_reminder_ends_at_its_end(parts: Parts) -> None:
    """A reminder ends at `ends_at`."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    id_ = await create_reminder_every(parts, ends_at=datetime.now(UTC) + timedelta(seconds=2.5))
    async with parts.run_worker():
        async with asyncio.timeout(30):
            with parts.notifier.subscribe(notifier.LOG) as waiter:
                while await parts.scalar("SELECT status FROM reminders WHERE id = :id", id=id_) != "ended":
                    await waiter.wait(0.5)
        await wait_until_done(parts, len(await list_occurrences(parts)))
    assert 1 <= len(await list_occurrences(parts)) <= 3


async def test_cancelling_an_occurrence_leaves_the_others(parts: Parts) -> None:
    """Cancelling one occurrence leaves the others."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    await create_reminder_every(parts)
    [first] = await list_occurrences(parts)
    async with parts.engine.begin() as conn:
        await lifecycle.cancel(conn, parts.application_id, first.id)
    async with parts.run_worker():
        await wait_until_done(parts, 2)
    rows = await list_occurrences(parts)
    assert [row.status for row in rows[:3]] == ["cancelled", "done", "done"]
    assert await parts.list_deliveries(first.id) == {}


async def test_pausing_an_occurrence_does_not_delay_the_next(parts: Parts) -> None:
    """Pausing one occurrence does not delay the next."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    await create_reminder_every(parts)
    [first] = await list_occurrences(parts)
    async with parts.engine.begin() as conn:
        await lifecycle.pause(conn, parts.application_id, first.id)
    async with parts.run_worker():
        await wait_until_done(parts, 2)
        assert (await parts.get_notification(first.id))[0].status is Status.PAUSED
        async with parts.engine.begin() as conn:
            await lifecycle.resume(conn, parts.application_id, first.id)
        assert (await parts.wait_until_done(first.id)).accepted == 1


async def test_missing_resource_ends_the_reminder(parts: Parts) -> None:
    """A reminder whose category is deleted ends after its scheduled occurrence, which is sent."""
    await parts.register(parts.subscribe(Vendor.FCM, 1))
    async with serve_api(parts) as api:
        await api.call_ok("POST", "/v1/categories", {"name": "news", "title": "News"})
        reminder = await api.call_ok("POST", "/v1/reminders", WEEKLY | {"category": "news"})
        [category] = (await api.call_ok("GET", "/v1/categories"))["items"]
        await api.call("DELETE", f"/v1/categories/{category['id']}")
        async with parts.engine.begin() as conn:
            await conn.execute(update(table).values(start_at=datetime.now(UTC)))
            await conn.execute(update(jobs).values(run_at=datetime.now(UTC)))
        async with parts.run_worker():
            await wait_until_done(parts, 1)
        reminder = await api.call_ok("GET", f"/v1/reminders/{reminder['id']}")
    assert (reminder["status"], reminder["cause"]) == ("ended", "/category: there is no category 'news'")


async def test_reminder_is_created_read_changed_and_removed(api: Api) -> None:
    """Reminders are created, read, changed, paused and removed."""
    reminder = await api.call_ok("POST", "/v1/reminders", WEEKLY | {"timezone": "Europe/Vienna"})
    path = f"/v1/reminders/{reminder['id']}"
    assert await api.call_ok("GET", path) == reminder
    assert (await api.call_ok("GET", "/v1/reminders"))["items"] == [reminder]
    assert (reminder["status"], reminder["explained"], reminder["occurrences"]) == ("active", "At 09:00 on Monday", 0)
    next_at = datetime.fromisoformat(reminder["next_at"])
    assert (next_at.weekday(), next_at > datetime.now(UTC)) == (0, True)
    occurrence = await api.call_ok("GET", f"/v1/notifications/{reminder['next_notification_id']}")
    assert (occurrence["kind"], occurrence["status"]) == ("reminder", "scheduled")
    assert occurrence["start_at"] == reminder["next_at"]

    changed = await api.call_ok("PATCH", path, {"cron": "30 8 * * *", "content": {"title": "Today"}})
    assert changed["next_at"] != reminder["next_at"]
    [occurrence] = (await api.call_ok("GET", "/v1/notifications?kind=reminder"))["items"]
    assert (occurrence["id"], occurrence["content"]["title"]) == (changed["next_notification_id"], "Today")
    paused = await api.call_ok("PATCH", path, {"paused": True})
    assert (paused["status"], paused["next_at"]) == ("paused", None)
    delivery = {"lane": None, "urgency": "low", "ttl": 600, "collapse_key": None}
    policy = {"quiet_hours": {"start": "21:00", "end": "08:00", "timezone": "device"}, "throttle": {"spread": 60}}
    other = await api.call_ok("PATCH", path, {"name": "Other", "delivery": {"urgency": "low", "ttl": 600}, **policy})
    assert (other["status"], other["delivery"]) == ("paused", delivery)
    assert (other["quiet_hours"], other["throttle"]) == (policy["quiet_hours"], {"per_second": None, "spread": 60.0})
    other = await api.call_ok("PATCH", path, {"delivery": None, "quiet_hours": None, "name": "Digest"})
    assert (other["delivery"], other["quiet_hours"]) == (dict.fromkeys(delivery), None)
    assert other["throttle"] == {"per_second": None, "spread": 60.0}
    refused = await api.call("PATCH", path, {"delivery": {"expires_at": "2036-01-01T00:00:00Z"}})
    assert refused.pointers == ["/delivery/expires_at"]
    assert (await api.call_ok("GET", "/v1/notifications?kind=reminder"))["items"] == []
    assert (await api.call_ok("PATCH", path, {"paused": False}))["next_at"] == changed["next_at"]
    assert (await api.call("DELETE", path)).status == 204
    assert (await api.call("GET", path)).status == 404
    assert (await api.rows())["jobs"] == 0


async def test_device_time_starts_with_the_first_time_zone(api: Api) -> None:
    """An occurrence in device time starts with the first time zone."""
    reminder = await api.call_ok("POST", "/v1/reminders", WEEKLY | {"timezone": "device"})
    occurrence = await api.call_ok("GET", f"/v1/notifications/{reminder['next_notification_id']}")
    local_time = datetime.fromisoformat(occurrence["schedule"]["at"])
    assert (local_time.weekday(), local_time.hour) == (0, 9)
    # The earliest time zone is 14 hours ahead of UTC.
    assert datetime.fromisoformat(reminder["next_at"]) == local_time.replace(tzinfo=UTC) - timedelta(hours=14)


async def test_segment_of_a_reminder_cannot_be_removed(api: Api) -> None:
    """A segment that a reminder uses cannot be removed."""
    segment = await api.call_ok("POST", "/v1/segments", {"name": "s", "audience": {"topic": "t"}})
    reminder = await api.call_ok("POST", "/v1/reminders", WEEKLY | {"audience": {"segment": segment["id"]}})
    await api.call_ok("PATCH", f"/v1/reminders/{reminder['id']}", {"paused": True})
    response = await api.call("DELETE", f"/v1/segments/{segment['id']}")
    assert (response.status, "'Digest'" in response.body["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"cron": "9 o'clock"}, "/cron"),
        ({"cron": "* * * * * *"}, "/cron"),
        ({"cron": "60 9 * * 1"}, "/cron"),
        ({"cron": "0 0 31 2 *"}, "/cron"),
        ({"timezone": "Mars/Phobos"}, "/timezone"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "/ends_at"),
        ({"missed": "sometimes"}, "/missed"),
        ({"audience": {"topic": "!"}}, "/audience/topic"),
        ({"category": "nonsense"}, "/category"),
        ({"delivery": {"lane": "urgent"}}, "/delivery/lane"),
        ({"delivery": {"expires_at": "2036-01-01T00:00:00Z"}}, "/delivery/expires_at"),
    ],
)
async def test_bad_reminders_are_reported(api: Api, change: Any, pointer: str) -> None:
    """Invalid reminders are reported by their JSON pointer."""
    before = await api.rows()
    response = await api.call("POST", "/v1/reminders", WEEKLY | change)
    assert (response.status, response.pointers) == (422, [pointer]), response.body
    assert await api.rows() == before


async def test_reminder_names_are_unique(api: Api) -> None:
    """Two reminders cannot have one name."""
    await api.call_ok("POST", "/v1/reminders", WEEKLY)
    assert (await api.call("POST", "/v1/reminders", WEEKLY)).status == 409
