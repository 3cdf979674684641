"""Control what has been accepted: pause it, let it go on, cancel it, at any moment.

The word is a row in the database, so that it holds whoever hears of it; a signal makes the workers hear it at once.
Waiting jobs are looked at when they come due. Jobs that are being sent stop between two messages: what is in
flight ends as it ends and is written down, and the rest goes back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import structlog

from gateway.domain import ids
from gateway.domain.errors import Conflict, NotFound
from gateway.domain.job import Job
from gateway.domain.notification import Kind, Notification, Progress, Status
from gateway.records import jobs, notifications
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Connection, Engine

Order = Callable[[Connection, UUID, UUID], Awaitable[None]]
"""Pause, resume or cancel: (connection, application, notification)."""

# Longer than a push service takes to answer, as a rule.
STOPPED_WITHIN = timedelta(seconds=5)
LOOK_S = 0.02

log = structlog.get_logger(__name__)


async def pause(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Send no more of it for now. Its time runs on: what has not been sent by its expiry never is.

    Pausing twice is the same as once. Raises NotFound, and Conflict when it has ended.
    """
    notification = await _locked(conn, application_id, id_, kind)
    if notification.status is not Status.PAUSED:
        _refuse_ended(notification)
        await _steer(conn, id_, Status.PAUSED)


async def resume(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Let it go on where it was paused. Raises NotFound, and Conflict when it has ended."""
    notification = await _locked(conn, application_id, id_, kind)
    if notification.status is Status.PAUSED:
        await jobs.resume(conn, id_)
        await _steer(conn, id_, Status.SCHEDULED if notification.day is None else Status.SENDING)
    _refuse_ended(notification)


async def cancel(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Send no more of it, for good. What is queued ends in the log as `cancelled`.

    Cancelling twice is the same as once. Raises NotFound, and Conflict when it was done already.
    """
    notification = await _locked(conn, application_id, id_, kind)
    if notification.status is not Status.CANCELLED:
        _refuse_ended(notification)
        await jobs.make_due(conn, id_)
        await _steer(conn, id_, Status.CANCELLED, finished=notification.day is None)


async def refresh_status(engine: Engine, notification: Notification) -> Status:
    """What has become of a notification that is being sent: asked after every batch, since signals may be lost.

    Pauses it, once, when more of it fails than it was said to bear.
    """
    limit = notification.policy.pause_when
    async with engine.begin() as conn:
        now, progress = await show(conn, notification.application_id, notification.id)
        if limit is None or not limit.is_exceeded(progress.accepted, progress.failed):
            return now.status
        [now] = await notifications.load(conn, [notification.id], lock=True)
        if now.status is not Status.SENDING or now.auto_paused is not None:
            return now.status
        ended = progress.accepted + progress.failed
        cause = f"{progress.failed} of {ended} deliveries failed, more than the limit of {limit.share:.0%}"
        await _steer(conn, notification.id, Status.PAUSED, auto_paused=cause)
    log.warning(
        "notification.auto_paused", notification_id=ids.format_id(ids.NOTIFICATION, notification.id), cause=cause
    )
    return Status.PAUSED


async def wait_until_idle(engine: Engine, id_: UUID) -> None:
    """Wait until the workers have let go of a notification that was told to stop: nothing is in flight any more.

    A worker that died holds on until its lease ends; it is not waited for longer than STOPPED_WITHIN.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(STOPPED_WITHIN.total_seconds()):
            while True:
                async with engine.connect() as conn:
                    if not await jobs.is_leased(conn, id_):
                        return
                await asyncio.sleep(LOOK_S)  # of letting go there is no signal


async def requeue(conn: Connection, job: Job) -> None:
    """Put back a job that is not finished: until its notification goes on when that is paused, else due at once."""
    # The lock keeps a resume out until the job is where that finds it.
    [notification] = await notifications.load(conn, [job.notification_id], lock=True)
    if notification.status is Status.PAUSED:
        await jobs.suspend(conn, job, notification.delivery.expires_at)
    else:
        await jobs.requeue(conn, job)


async def show(
    conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None
) -> tuple[Notification, Progress]:
    """Raises NotFound, also for one of another kind or application."""
    found = await notifications.get(conn, application_id, id_)
    if found is None or kind not in (None, found[0].kind):
        raise NotFound(f"there is no {kind or 'notification'} {ids.format_id(ids.NOTIFICATION, id_)}")
    return found


async def _locked(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None) -> Notification:
    """Raises NotFound."""
    [*found] = await notifications.load(conn, [id_], lock=True)
    if not found or found[0].application_id != application_id or kind not in (None, found[0].kind):
        raise NotFound(f"there is no {kind or 'notification'} {ids.format_id(ids.NOTIFICATION, id_)}")
    return found[0]


def _refuse_ended(notification: Notification) -> None:
    match notification.status:
        case Status.DONE:
            raise Conflict("it is done: everything has been sent already")
        case Status.CANCELLED:
            raise Conflict("it was cancelled")


async def _steer(
    conn: Connection, id_: UUID, status: Status, *, finished: bool = False, auto_paused: str | None = None
) -> None:
    await notifications.set_status(conn, id_, status, finished=finished, auto_paused=auto_paused)
    await notifier.notify(conn, notifier.STATUS, f"{id_} {status}")
