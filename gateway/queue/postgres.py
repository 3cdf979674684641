"""The queue in Postgres.

A job is one row, and `run_at` is when it may next be claimed. Claiming moves `run_at` past the lease,
so a schedule, a crash and a retry are one thing: a row that comes due. Outcomes, counters and
the shrinking of the job are one transaction, so nothing is lost between 'sent' and 'logged' but
the unsettled moment itself.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, Select, bindparam, delete, func, insert, literal, select, text, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane, Notification
from gateway.queue.protocol import LeaseLost
from gateway.records.delivery_log import writer
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import DATABASE_ERRORS, write_behind
from gateway.records.postgres.schema import jobs

log = structlog.get_logger(__name__)

# One named constant and not Core: it runs on every wake-up, and the plan depends on its exact shape. `present` walks
# from one application with jobs in the lane to the next, each by one look into the index, and stops at the first of
# which a job is due that nobody has locked: those of the others must not wait for whoever has. The materialized CTE
# keeps the planner from joining before SKIP LOCKED has picked its rows.
CLAIM = text("""
    WITH RECURSIVE present AS (
        (SELECT application_id FROM jobs WHERE lane = :lane AND application_id > :after
         ORDER BY application_id LIMIT 1)
        UNION ALL
        SELECT (SELECT jobs.application_id FROM jobs
                WHERE jobs.lane = :lane AND jobs.application_id > present.application_id
                ORDER BY jobs.application_id LIMIT 1)
        FROM present WHERE present.application_id IS NOT NULL
    ), turn AS MATERIALIZED (
        SELECT application_id FROM present WHERE EXISTS (
            SELECT FROM jobs WHERE lane = :lane AND jobs.application_id = present.application_id AND run_at <= now()
            ORDER BY run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
        ) LIMIT 1
    ), due AS MATERIALIZED (
        SELECT id FROM jobs
        WHERE lane = :lane AND application_id = (SELECT application_id FROM turn) AND run_at <= now()
        ORDER BY run_at, id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET run_at = now() + :lease, attempt = attempt + 1, parked = false
    FROM due WHERE jobs.id = due.id
    RETURNING jobs.*
""")
# These run for every batch, and SQLAlchemy takes longer to make a statement than to run it: so they are made once.
_WHOLE = (
    jobs.c.id == bindparam("job"),
    jobs.c.attempt == bindparam("held_as"),
    func.cardinality(jobs.c.device_ids) == bindparam("devices"),
)
_END = delete(jobs).where(*_WHOLE)
_KEEP = update(jobs).where(*_WHOLE).values(device_ids=bindparam("remaining"))
NOBODY = UUID(int=0)
# Claims and settles at once, of what is not urgent. An application's batches are numbered in the log one after another:
# more of them would take every connection while they wait, and an alert would wait for one. Claims wait behind them, so
# that nobody sends on and on what cannot be settled.
AT_ONCE = 4

# Nobody holds it: never claimed, or put back until its slot.
_WAITS = (jobs.c.attempt == 0) | jobs.c.run_at.is_not_distinct_from(jobs.c.slot)


class PostgresQueue:
    def __init__(self, engine: AsyncEngine, bell: notifier.Notifier) -> None:
        self._engine = engine
        self._bell = bell
        self._served: dict[Lane, UUID] = {}
        self._not_urgent = asyncio.Semaphore(AT_ONCE)

    async def claim(self, *, lanes: Sequence[Lane], limit: int, lease: timedelta, wait: timedelta) -> list[Job]:
        deadline = asyncio.get_running_loop().time() + wait.total_seconds()
        with self._bell.subscribe(notifier.JOBS) as waiter:  # listening before looking, so that nothing falls between
            while True:
                found, next_due = await self._claim_whole(lanes, limit, lease)
                left = deadline - asyncio.get_running_loop().time()
                if found or left <= 0:
                    return found
                await waiter.wait(left if next_due is None else min(left, next_due))

    async def _claim_whole(self, lanes: Sequence[Lane], limit: int, lease: timedelta) -> tuple[list[Job], float | None]:
        """Like `_claim_now`; when cancelled in the middle it gives back what it got."""
        claiming = asyncio.ensure_future(self._claim_now(lanes, limit, lease))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(*DATABASE_ERRORS):  # the lease will do what we cannot; being cancelled goes first
                found, _ = await claiming
                for job in found:
                    await self.release(job)
            raise

    async def _claim_now(self, lanes: Sequence[Lane], limit: int, lease: timedelta) -> tuple[list[Job], float | None]:
        """The claimed jobs; when there are none, also the seconds until the next comes due."""
        found: list[Job] = []
        async with self._place(lanes), self._engine.begin() as conn:
            await write_behind(conn)
            for lane in lanes:
                found += await self._in_turn(conn, lane, limit - len(found), lease)
            if found:
                return found, None
            due = select(func.extract("epoch", func.min(jobs.c.run_at) - func.now())).where(jobs.c.lane.in_(lanes))
            seconds = (await conn.execute(due)).scalar()
        return found, None if seconds is None else max(0.0, float(seconds))

    async def _in_turn(self, conn: AsyncConnection, lane: Lane, limit: int, lease: timedelta) -> list[Job]:
        """Due jobs of one lane, those of the application after the one that was served last.

        So one's large campaign does not keep another waiting. Within an application who came first goes first.
        """
        found: list[Job] = []
        while len(found) < limit:
            after = self._served.get(lane, NOBODY)
            asked = {"lane": lane, "after": after, "limit": limit - len(found), "lease": lease}
            rows = [_job(row) for row in await conn.execute(CLAIM, asked)]
            if not rows and after == NOBODY:
                break
            self._served[lane] = rows[0].application_id if rows else NOBODY  # from the first again
            found += rows
        return found

    async def renew(self, held: Sequence[Job], lease: timedelta) -> set[int]:
        if not held:
            return set()
        statement = (
            update(jobs)
            .where(tuple_(jobs.c.id, jobs.c.attempt).in_([(job.id, job.lease_generation) for job in held]))
            .values(run_at=func.now() + lease)
            .returning(jobs.c.id)
        )
        async with self._engine.begin() as conn:
            return set((await conn.execute(statement)).scalars())

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        async with self._place([job.lane]):
            try:
                async with self._engine.begin() as conn:
                    await apply(conn, job, settlement, remaining)
            except IntegrityError:
                async with self._engine.begin() as conn:
                    await apply_unlogged(conn, job, settlement, remaining)

    def _place(self, lanes: Sequence[Lane]) -> AbstractAsyncContextManager[None]:
        return nullcontext() if all(lane is Lane.URGENT for lane in lanes) else self._not_urgent

    async def release(self, job: Job) -> None:
        async with self._engine.begin() as conn:
            await requeue(conn, job)


async def enqueue_plans(conn: AsyncConnection, accepted: Sequence[Notification]) -> None:
    """The first job of each notification: plan it when its time comes. Part of the accepting transaction."""
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
    await _ring(conn, *(notification.delivery.lane for notification in accepted))


async def fan_out(
    conn: AsyncConnection, plan: Job, day: date, audience: Select[tuple[UUID, datetime]], size: int
) -> int:
    """Replace a plan job by send jobs of up to `size` devices, in one INSERT ... SELECT; answers the device count.

    `audience` is (id, due): devices that are due at the same time share jobs. Raises LeaseLost when another worker
    has planned it since.
    """
    await drop(conn, plan)
    who = audience.subquery("audience")
    place = func.row_number().over(partition_by=who.c.due, order_by=who.c.id) - 1
    numbered = select(who.c.id, who.c.due, (place // size).label("chunk")).subquery("numbered")
    chunks = select(
        literal(plan.application_id).label("application_id"),
        literal(plan.notification_id).label("notification_id"),
        literal(int(plan.lane)).label("lane"),
        literal(day).label("day"),
        numbered.c.due.label("run_at"),
        func.array_agg(numbered.c.id).label("device_ids"),
    ).group_by(numbered.c.due, numbered.c.chunk)
    columns = ["application_id", "notification_id", "lane", "day", "run_at", "device_ids"]
    written = insert(jobs).from_select(columns, chunks).returning(func.cardinality(jobs.c.device_ids))
    sizes = (await conn.execute(written)).scalars().all()
    await _ring(conn, plan.lane)
    return sum(sizes)


async def _ring(conn: AsyncConnection, *lanes: Lane) -> None:
    """Say that jobs of these lanes may be due."""
    await notifier.send(conn, notifier.JOBS, Lane.URGENT.label if Lane.URGENT in lanes else "")


async def drop(conn: AsyncConnection, job: Job) -> None:
    """End a job that has nothing to do. Raises LeaseLost."""
    await _guarded(conn, delete(jobs).where(*_held(job)))


async def make_due(conn: AsyncConnection, notification_id: UUID) -> None:
    """Make a stopped notification's waiting jobs due at once, so that workers account for their devices.

    Leased jobs are left to their workers.
    """
    waiting = (jobs.c.notification_id == notification_id, _WAITS | jobs.c.parked)
    await conn.execute(update(jobs).where(*waiting).values(run_at=func.now(), parked=False))
    await notifier.send(conn, notifier.JOBS)


async def requeue(conn: AsyncConnection, job: Job) -> None:
    """Make a claimed job due at once. Nothing happens when the lease was lost."""
    await conn.execute(update(jobs).where(*_held(job)).values(run_at=func.now()))
    await notifier.send(conn, notifier.JOBS)


async def suspend(conn: AsyncConnection, job: Job, until: datetime) -> None:
    """Put a paused notification's job away until it goes on; `until` at the latest. Nothing when the lease was lost."""
    await conn.execute(update(jobs).where(*_held(job)).values(run_at=until, parked=True, slot=None))
    await notifier.send(conn, notifier.JOBS)  # it may come due before the lease that others saw


async def unsuspend(conn: AsyncConnection, notification_id: UUID) -> None:
    """A paused notification goes on."""
    parked = (jobs.c.notification_id == notification_id, jobs.c.parked)
    await conn.execute(update(jobs).where(*parked).values(run_at=func.now(), parked=False))
    await notifier.send(conn, notifier.JOBS)


async def reschedule(conn: AsyncConnection, job: Job, slot: datetime) -> None:
    """Put a throttled notification's job back until its slot. Nothing happens when the lease was lost."""
    await conn.execute(update(jobs).where(*_held(job)).values(run_at=slot, slot=slot))
    await notifier.send(conn, notifier.JOBS)


async def is_held(conn: AsyncConnection, notification_id: UUID) -> bool:
    """Whether a worker has one of its jobs."""
    leased = (jobs.c.notification_id == notification_id, jobs.c.run_at > func.now(), ~_WAITS, ~jobs.c.parked)
    return (await conn.execute(select(jobs.c.id).where(*leased).limit(1))).first() is not None


async def last_due(conn: AsyncConnection, notification_id: UUID) -> datetime | None:
    """When the last job that waits for its time comes due; None when none does."""
    waiting = (jobs.c.notification_id == notification_id, _WAITS, jobs.c.run_at > func.now())
    due: datetime | None = (await conn.execute(select(func.max(jobs.c.run_at)).where(*waiting))).scalar()
    return due


async def depth(conn: AsyncConnection) -> list[tuple[Lane, int, int, float]]:
    """(lane, jobs, due ones, seconds the oldest due one has waited) of every lane that has jobs."""
    age = func.extract("epoch", func.now() - func.min(jobs.c.run_at))
    due = func.count().filter(jobs.c.run_at <= func.now())
    rows = await conn.execute(select(jobs.c.lane, func.count(), due, age).group_by(jobs.c.lane))
    return [(Lane(lane), count, waiting, max(0.0, float(seconds))) for lane, count, waiting, seconds in rows]


def _held(job: Job) -> tuple[Any, Any]:
    return jobs.c.id == job.id, jobs.c.attempt == job.lease_generation


async def apply(conn: AsyncConnection, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> bool:
    """Settle in the running transaction; False when it was done before. Raises LeaseLost."""
    if not await _shrink(conn, job, settlement.devices(), remaining):
        return False
    if settlement.requeued:
        await conn.execute(
            insert(jobs),
            [
                {
                    "application_id": job.application_id,
                    "notification_id": job.notification_id,
                    "lane": job.lane,
                    "day": job.day,
                    "run_at": due,
                    "tries": tries,
                    "device_ids": device_ids,
                }
                for (due, tries), device_ids in settlement.requeued.items()
            ],
        )
        await notifier.send(conn, notifier.JOBS)
    await writer.record(conn, job, settlement)
    return True


async def apply_unlogged(conn: AsyncConnection, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> bool:
    """As `apply`, for those of the job's devices that the log does not have; the others leave the job.

    Nothing of ours makes such a job, but one that was brought back by hand must not be sent again at each lease. What
    the log refuses for another reason it refuses again: IntegrityError.
    """
    held = await lock_job(conn, job)
    if held is None or held.lease_generation != job.lease_generation:
        raise LeaseLost
    told = settlement.device_ids()
    logged = await writer.logged(conn, job, told & set(held.device_ids))
    if logged:
        log.error("job.logged_before", **job.log_fields, devices=len(logged))
        left = [device_id for device_id in held.device_ids if device_id not in logged]
        await conn.execute(update(jobs).where(*_held(job)).values(device_ids=left))
    return await apply(conn, job, settlement.for_devices(told - logged), remaining)


async def lock_job(conn: AsyncConnection, job: Job) -> Job | None:
    """The job as it is held now, whoever claimed it last; locked. None when it has ended."""
    query = select(jobs.c.attempt, jobs.c.device_ids).where(jobs.c.id == job.id).with_for_update()
    row = (await conn.execute(query)).first()
    return None if row is None else replace(job, lease_generation=row.attempt, device_ids=tuple(row.device_ids))


async def steal_lease(conn: AsyncConnection, job: Job) -> Job | None:
    """Claim a job whose lease somebody else renews. None when it has ended."""
    taken = update(jobs).where(jobs.c.id == job.id).values(attempt=jobs.c.attempt + 1).returning(jobs.c.attempt)
    attempt = (await conn.execute(taken)).scalar()
    return None if attempt is None else replace(job, lease_generation=attempt)


async def split_job(conn: AsyncConnection, job: Job) -> None:
    """Make two jobs of a claimed one, both due at once. Raises LeaseLost."""
    middle = len(job.device_ids) // 2
    rest = list(job.device_ids[middle:])
    values = {"device_ids": list(job.device_ids[:middle]), "run_at": func.now()}
    await _guarded(conn, update(jobs).where(*_held(job)).values(**values))
    row = {name: getattr(job, name) for name in ("application_id", "notification_id", "lane", "day", "slot")}
    row["tries"] = job.attempts
    await conn.execute(insert(jobs).values(**row, task=job.kind, device_ids=rest))
    await notifier.send(conn, notifier.JOBS)


async def _shrink(conn: AsyncConnection, job: Job, settled: int, remaining: Sequence[UUID]) -> bool:
    """Take `settled` devices out of the job; False when that was done before. Raises LeaseLost."""
    whole = {"job": job.id, "held_as": job.lease_generation, "devices": settled + len(remaining)}
    if not remaining:
        if (await conn.execute(_END, whole)).rowcount != 1:
            raise LeaseLost
        return True
    if (await conn.execute(_KEEP, whole | {"remaining": list(remaining)})).rowcount == 1:
        return True
    left = (await conn.execute(select(jobs.c.device_ids).where(*_held(job)))).scalar()
    if left == list(remaining):
        return False
    raise LeaseLost


async def _guarded(conn: AsyncConnection, statement: Any) -> None:
    if (await conn.execute(statement)).rowcount != 1:
        raise LeaseLost


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=JobKind(row.task),
        notification_id=row.notification_id,
        application_id=row.application_id,
        lane=Lane(row.lane),
        lease_generation=row.attempt,
        attempts=row.tries,
        day=row.day,
        device_ids=tuple(row.device_ids),
        slot=row.slot,
    )
