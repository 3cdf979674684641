"""The jobs table: what has to be sent, and when.

The service changes jobs in the transactions that accept, plan, pause or cancel a notification. Workers claim and settle
jobs through `gateway.queue`.

Columns:
    run_at: when the job may be claimed next. Claiming a job moves `run_at` to the end of the lease.
    parked: the job is suspended because its notification is paused.
    slot: the time that a throttle has assigned to the job.
    attempt: the lease generation, which every claim increments.
    tries: the number of earlier POSTs to each device. All devices of a job have the same number.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Select, delete, func, insert, literal, select, update

from gateway.domain.job import Job, JobKind, LeaseLost
from gateway.domain.notification import Lane, Notification
from gateway.records import bound_deliveries
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Connection
from gateway.records.postgres.schema import jobs

# Jobs without a lease: never claimed, or waiting for their slot. Suspended jobs (`parked`) have no lease either, but
# this condition does not match all of them.
_UNLEASED = (jobs.c.attempt == 0) | jobs.c.run_at.is_not_distinct_from(jobs.c.slot)


async def enqueue_plans(conn: Connection, accepted: Sequence[Notification]) -> None:
    """Insert a plan job for each notification, due at its start time.

    Runs in the transaction that accepts the notifications.
    """
    await conn.execute(
        insert(jobs),
        [
            {
                "task": JobKind.PLAN,
                "application_id": notification.application_id,
                "notification_id": notification.id,
                "lane": notification.delivery.lane,
                "run_at": notification.start_at,
            }
            for notification in accepted
        ],
    )
    await _notify(conn, *(notification.delivery.lane for notification in accepted))


async def fan_out(
    conn: Connection,
    plan: Job,
    day: date,
    audience: Select[tuple[UUID, datetime, str | None]],
    max_devices: int,
    *,
    person_bound: bool = False,
) -> int:
    """Replace a plan job by send jobs of up to `max_devices` devices, in one INSERT ... SELECT.

    Args:
        conn: the connection, in the planning transaction.
        plan: the claimed plan job.
        day: the partition of the delivery log for the results.
        audience: the query of (id, due, user_id) of each device. Only devices that are due at the same time share a
            job.
        max_devices: the maximum number of devices in one job.
        person_bound: whether the notification is bound to persons. Then the user of each device is stored.

    Returns:
        The number of devices in all send jobs.

    Raises:
        LeaseLost: another worker has planned the notification.
    """
    await delete_job(conn, plan)
    devices = audience.cte("audience") if person_bound else audience.subquery("audience")
    position = func.row_number().over(partition_by=devices.c.due, order_by=devices.c.id) - 1
    numbered = select(devices.c.id, devices.c.due, (position // max_devices).label("chunk")).subquery("numbered")
    chunks = select(
        literal(plan.application_id).label("application_id"),
        literal(plan.notification_id).label("notification_id"),
        literal(int(plan.lane)).label("lane"),
        literal(day).label("day"),
        numbered.c.due.label("run_at"),
        func.array_agg(numbered.c.id).label("device_ids"),
    ).group_by(numbered.c.due, numbered.c.chunk)
    columns = ["application_id", "notification_id", "lane", "day", "run_at", "device_ids"]
    inserted = insert(jobs).from_select(columns, chunks).returning(func.cardinality(jobs.c.device_ids))
    if isinstance(devices, CTE):
        inserted = inserted.add_cte(bound_deliveries.insert_from(devices, plan.notification_id))
    sizes = (await conn.execute(inserted)).scalars().all()
    await _notify(conn, plan.lane)
    return sum(sizes)


async def delete_job(conn: Connection, job: Job) -> None:
    """Delete a claimed job that has nothing left to do.

    Raises:
        LeaseLost: another worker has claimed the job.
    """
    await execute_leased(conn, delete(jobs).where(*leased_as(job)))


async def make_due(conn: Connection, notification_id: UUID) -> None:
    """Make the unleased jobs of a cancelled notification due at once, so that workers log their devices as cancelled.

    Leased jobs do not change: their workers are notified of the cancellation.
    """
    waiting = (jobs.c.notification_id == notification_id, _UNLEASED | jobs.c.parked)
    await conn.execute(update(jobs).where(*waiting).values(run_at=func.now(), parked=False))
    await notifier.notify(conn, notifier.JOBS)


async def suspend_due(conn: Connection, notification_id: UUID, until: datetime) -> None:
    """Suspend the due jobs of a paused notification, until the notification is resumed or `until` has passed.

    Jobs that a worker has claimed, or is claiming, do not change: the worker suspends them itself.
    """
    due = (jobs.c.notification_id == notification_id, jobs.c.run_at <= func.now(), ~jobs.c.parked)
    # Waiting for the lock of a settlement could deadlock: settlements lock the notification after the job.
    unlocked = select(jobs.c.id).where(*due).with_for_update(skip_locked=True).scalar_subquery()
    await conn.execute(update(jobs).where(jobs.c.id.in_(unlocked)).values(run_at=until, parked=True, slot=None))


async def requeue(conn: Connection, job: Job) -> None:
    """Make a claimed job due at once. Does nothing if the lease was lost."""
    await conn.execute(update(jobs).where(*leased_as(job)).values(run_at=func.now()))
    await notifier.notify(conn, notifier.JOBS)


async def suspend(conn: Connection, job: Job, until: datetime) -> None:
    """Suspend a claimed job of a paused notification, until the notification is resumed or `until` has passed.

    Does nothing if the lease was lost.
    """
    await conn.execute(update(jobs).where(*leased_as(job)).values(run_at=until, parked=True, slot=None))
    # Wake idle workers: they wait until the end of the lease, but the job may now come due before it.
    await notifier.notify(conn, notifier.JOBS)


async def resume(conn: Connection, notification_id: UUID) -> None:
    """Make the suspended jobs of a notification due at once."""
    suspended = (jobs.c.notification_id == notification_id, jobs.c.parked)
    await conn.execute(update(jobs).where(*suspended).values(run_at=func.now(), parked=False))
    await notifier.notify(conn, notifier.JOBS)


async def reschedule(conn: Connection, job: Job, slot: datetime) -> None:
    """Release a claimed job of a throttled notification until its slot. Does nothing if the lease was lost."""
    await conn.execute(update(jobs).where(*leased_as(job)).values(run_at=slot, slot=slot))
    await notifier.notify(conn, notifier.JOBS)


async def is_leased(conn: Connection, notification_id: UUID) -> bool:
    """Return whether a worker has a lease on any job of the notification."""
    leased = jobs.c.run_at > func.now(), ~_UNLEASED
    return await _exists(conn, jobs.c.notification_id == notification_id, ~jobs.c.parked, *leased)


async def is_leased_or_due(conn: Connection, notification_id: UUID) -> bool:
    """Return whether a worker has a lease on any job of the notification, or may be claiming one now."""
    active = (jobs.c.run_at <= func.now()) | ~_UNLEASED
    return await _exists(conn, jobs.c.notification_id == notification_id, ~jobs.c.parked, active)


async def last_due(conn: Connection, notification_id: UUID) -> datetime | None:
    """Return the latest future time at which an unleased job of the notification comes due; None if there is none."""
    scheduled = (jobs.c.notification_id == notification_id, _UNLEASED, jobs.c.run_at > func.now())
    due: datetime | None = (await conn.execute(select(func.max(jobs.c.run_at)).where(*scheduled))).scalar()
    return due


async def measure_depth(conn: Connection) -> list[tuple[Lane, int, int, float]]:
    """Return (lane, number of jobs, number of due jobs, age) of every lane that has jobs.

    The age is the number of seconds since the oldest due job came due, 0 if no job is due.
    """
    age = func.extract("epoch", func.now() - func.min(jobs.c.run_at))
    due = func.count().filter(jobs.c.run_at <= func.now())
    rows = await conn.execute(select(jobs.c.lane, func.count(), due, age).group_by(jobs.c.lane))
    return [(Lane(lane), count, due_count, max(0.0, float(age_s))) for lane, count, due_count, age_s in rows]


def leased_as(job: Job) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions for the row of a claimed job. They fail once another worker has claimed the job."""
    return jobs.c.id == job.id, jobs.c.attempt == job.lease_generation


async def execute_leased(conn: Connection, statement: Any) -> None:
    """Execute a statement that must change one row.

    Raises:
        LeaseLost: the statement changed no row.
    """
    if (await conn.execute(statement)).rowcount != 1:
        raise LeaseLost


async def _exists(conn: Connection, *conditions: ColumnElement[bool]) -> bool:
    return (await conn.execute(select(jobs.c.id).where(*conditions).limit(1))).first() is not None


async def _notify(conn: Connection, *lanes: Lane) -> None:
    """Notify workers that jobs of these lanes may be due. The payload is the urgent lane if it is among them."""
    await notifier.notify(conn, notifier.JOBS, Lane.URGENT.label if Lane.URGENT in lanes else "")
