"""Pause, resume and cancel accepted notifications.

The status is a column of the notification. When it changes, a message over Postgres NOTIFY makes the workers read it.
A worker that claims a job reads the status first. A job that is being sent stops between two messages: requests in
flight complete and are logged, and the remaining devices return to the queue.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import structlog

from gateway.domain import ids
from gateway.domain.errors import Conflict, NotFound
from gateway.domain.job import Job
from gateway.domain.notification import UNFINISHED_STATUSES, Kind, Notification, Progress, Status
from gateway.records import jobs, notifications
from gateway.records.postgres import notifier
from gateway.records.postgres.connection_shares import ConnectionShare
from gateway.records.postgres.engine import Connection, Engine

# The type of `pause`, `resume` and `cancel`, called with (connection, application id, notification id).
Transition = Callable[[Connection, UUID, UUID], Awaitable[None]]

# Maximum wait for requests in flight. Most push services respond sooner.
MAX_IDLE_WAIT = timedelta(seconds=5)
# Interval between two checks whether a job is still leased.
POLL_INTERVAL_S = 0.02

log = structlog.get_logger(__name__)


async def pause(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Stop sending a notification until `resume`. It can still expire while it is paused.

    Pausing a paused notification has no effect.

    Raises:
        NotFound: the application has no such notification.
        Conflict: the notification has ended.
    """
    notification = await _lock(conn, application_id, id_, kind)
    if notification.status is not Status.PAUSED:
        _check_not_ended(notification)
        await jobs.suspend_due(conn, id_, notification.delivery.expires_at)
        await _set_status(conn, id_, Status.PAUSED)


async def resume(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Continue sending a paused notification. Resuming a notification that is not paused has no effect.

    Raises:
        NotFound: the application has no such notification.
        Conflict: the notification has ended.
    """
    notification = await _lock(conn, application_id, id_, kind)
    if notification.status is Status.PAUSED:
        await jobs.resume(conn, id_)
        has_started = notification.day is not None
        await _set_status(conn, id_, Status.SENDING if has_started else Status.SCHEDULED)
    _check_not_ended(notification)


async def cancel(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None) -> None:
    """Stop sending a notification for good. Messages that were not sent are logged as `cancelled`.

    Cancelling a cancelled notification has no effect.

    Raises:
        NotFound: the application has no such notification.
        Conflict: the notification is done.
    """
    notification = await _lock(conn, application_id, id_, kind)
    if notification.status is not Status.CANCELLED:
        _check_not_ended(notification)
        # Workers claim the due jobs and log their messages as cancelled. Before sending starts there is nothing to log.
        await jobs.make_due(conn, id_)
        has_started = notification.day is not None
        await _set_status(conn, id_, Status.CANCELLED, finished=not has_started)


async def cancel_if(
    conn: Connection, application_id: UUID, id_: UUID, statuses: Collection[Status] = UNFINISHED_STATUSES
) -> bool:
    """Cancel a notification if its status is one of `statuses`; return whether it was cancelled.

    The status is read under a lock, since the last delivery of the notification may end at the same time. Unlike
    `cancel`, this function does not raise an error if the notification has ended.
    """
    rows = await notifications.load(conn, [id_], lock=True)
    if not rows or rows[0].status not in statuses:
        return False
    await cancel(conn, application_id, id_)
    return True


async def refresh_status(engine: Engine, notification: Notification) -> Status:
    """Return the current status of a notification that is being sent, and pause it if its failure limit is exceeded.

    Workers call this function after every batch, since the messages that announce a status may be lost. The failure
    limit pauses a notification only once: after `resume` it is not checked again.
    """
    limit = notification.policy.pause_when
    async with engine.begin() as conn:
        current, progress = await get(conn, notification.application_id, notification.id)
        if limit is None or not limit.is_exceeded(progress.accepted, progress.failed):
            return current.status
        [current] = await notifications.load(conn, [notification.id], lock=True)
        if current.status is not Status.SENDING or current.auto_paused is not None:
            return current.status
        ended = progress.accepted + progress.failed
        cause = f"{progress.failed} of {ended} deliveries failed, more than the limit of {limit.share:.0%}"
        await jobs.suspend_due(conn, notification.id, notification.delivery.expires_at)
        await _set_status(conn, notification.id, Status.PAUSED, auto_paused=cause)
    log.warning(
        "notification.auto_paused", notification_id=ids.format_id(ids.NOTIFICATION, notification.id), cause=cause
    )
    return Status.PAUSED


async def wait_until_suspended(share: ConnectionShare, id_: UUID) -> None:
    """Wait until all due jobs of a paused notification are suspended: no request is in flight, and none will follow.

    Waits at most MAX_IDLE_WAIT, since the lease of a crashed worker may last longer.
    """
    await _wait_while(jobs.is_leased_or_due, share, id_)


async def wait_until_idle(share: ConnectionShare, id_: UUID) -> None:
    """Wait until no worker has a lease on a job of a notification, so that no request is in flight.

    Waits at most MAX_IDLE_WAIT, since the lease of a crashed worker may last longer.
    """
    await _wait_while(jobs.is_leased, share, id_)


async def _wait_while(
    condition: Callable[[Connection, UUID], Awaitable[bool]], share: ConnectionShare, id_: UUID
) -> None:
    """Poll a condition until it is False, for at most MAX_IDLE_WAIT."""
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_IDLE_WAIT.total_seconds()):
            while True:
                async with share.connect() as conn:
                    if not await condition(conn, id_):
                        return
                await asyncio.sleep(POLL_INTERVAL_S)  # the end of a lease is not announced


async def requeue(conn: Connection, job: Job) -> None:
    """Return an unfinished job to the queue: suspended if its notification is paused, otherwise due at once."""
    # The lock makes a concurrent `resume` wait until the job is suspended, so that `resume` makes the job due too.
    [notification] = await notifications.load(conn, [job.notification_id], lock=True)
    if notification.status is Status.PAUSED:
        await jobs.suspend(conn, job, notification.delivery.expires_at)
    else:
        await jobs.requeue(conn, job)


async def get(
    conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None = None
) -> tuple[Notification, Progress]:
    """Return a notification and its delivery counts.

    Raises:
        NotFound: the application has no such notification, or it is of another kind.
    """
    match = await notifications.get(conn, application_id, id_)
    if match is None or kind not in (None, match[0].kind):
        raise NotFound(f"there is no {kind or 'notification'} {ids.format_id(ids.NOTIFICATION, id_)}")
    return match


async def _lock(conn: Connection, application_id: UUID, id_: UUID, kind: Kind | None) -> Notification:
    rows = await notifications.load(conn, [id_], lock=True)
    if not rows or rows[0].application_id != application_id or kind not in (None, rows[0].kind):
        raise NotFound(f"there is no {kind or 'notification'} {ids.format_id(ids.NOTIFICATION, id_)}")
    return rows[0]


def _check_not_ended(notification: Notification) -> None:
    match notification.status:
        case Status.DONE:
            raise Conflict("the notification is done: every message has been sent")
        case Status.CANCELLED:
            raise Conflict("the notification was cancelled")


async def _set_status(
    conn: Connection, id_: UUID, status: Status, *, finished: bool = False, auto_paused: str | None = None
) -> None:
    await notifications.set_status(conn, id_, status, finished=finished, auto_paused=auto_paused)
    await notifier.notify(conn, notifier.STATUS, f"{id_} {status}")
