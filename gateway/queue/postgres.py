"""The queue in Postgres: claim jobs, renew leases, settle results.

A job is one row, and `run_at` is when it may next be claimed. Claiming moves `run_at` to the end of the lease. So a
scheduled job, a job whose worker died and a retry are the same thing: a row that comes due. One transaction writes the
results and counters and removes the devices from the job. So a crash loses only results that were not yet settled, and
the messages to their devices are sent again.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, bindparam, delete, func, insert, select, text, tuple_, update

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job, JobKind, LeaseLost
from gateway.domain.notification import Lane
from gateway.records.delivery_log import writer
from gateway.records.jobs import execute_leased, leased_as, requeue
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine, IntegrityError, commit_asynchronously
from gateway.records.postgres.schema import jobs

log = structlog.get_logger(__name__)

# Text instead of SQLAlchemy Core: the statement runs on every wake-up, and its plan depends on the exact form.
# `present` yields each application that has jobs in the lane, by one index look-up per application. `turn` is the first
# of these with a due job that is not locked, so that no application waits for a concurrent claim of another one. The
# CTEs are materialized, because otherwise the planner may join before SKIP LOCKED has chosen the rows.
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
        SELECT application_id FROM present WHERE application_id <> ALL(CAST(:excluded AS uuid[])) AND EXISTS (
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
# The next statements run for every batch. They are built once, because building takes longer than running them. They
# match a job that has the worker's lease and the expected number of devices.
_WHERE_JOB_UNCHANGED = (
    jobs.c.id == bindparam("job"),
    jobs.c.attempt == bindparam("lease_generation"),
    func.cardinality(jobs.c.device_ids) == bindparam("devices"),
)
_DELETE = delete(jobs).where(*_WHERE_JOB_UNCHANGED)
_SHRINK = update(jobs).where(*_WHERE_JOB_UNCHANGED).values(device_ids=bindparam("remaining"))
# The id that precedes the ids of all applications.
MIN_UUID = UUID(int=0)
# Maximum concurrent claims and settlements of the non-urgent lanes, per worker. Batches of one application get their
# log positions one after the other, so they wait for each other. Without a limit they could occupy all connections, and
# an alert would wait for one. Claims share the limit, so that a worker does not claim more than it can settle.
MAX_CONCURRENT_NON_URGENT = 4


class PostgresQueue:
    """Claims jobs from the jobs table and writes results into the delivery log."""

    def __init__(self, engine: Engine, notifier: notifier.Notifier, urgent_engine: Engine | None = None) -> None:
        """Create the queue.

        Args:
            engine: the connection pool of the worker.
            notifier: wakes waiting claims.
            urgent_engine: a pool for urgent jobs only; None takes their connections from `engine`.
        """
        self._engine = engine
        self._urgent_engine = urgent_engine or engine
        self._notifier = notifier
        # The application that was served last, by lane.
        self._last_served: dict[Lane, UUID] = {}
        self._non_urgent_slots = asyncio.Semaphore(MAX_CONCURRENT_NON_URGENT)

    async def claim(
        self,
        *,
        lanes: Sequence[Lane],
        limit: int,
        lease: timedelta,
        wait: timedelta,
        excluded: Collection[UUID] = (),
    ) -> list[Job]:
        """Claim due jobs, see `Queue.claim`."""
        deadline = asyncio.get_running_loop().time() + wait.total_seconds()
        with self._notifier.subscribe(notifier.JOBS) as events:  # subscribe before the query, so that no event is lost
            while True:
                claimed, next_due_s = await self._claim_shielded(lanes, limit, lease, excluded)
                remaining_s = deadline - asyncio.get_running_loop().time()
                if claimed or remaining_s <= 0:
                    return claimed
                await events.wait(remaining_s if next_due_s is None else min(remaining_s, next_due_s))

    async def _claim_shielded(
        self, lanes: Sequence[Lane], limit: int, lease: timedelta, excluded: Collection[UUID]
    ) -> tuple[list[Job], float | None]:
        """Run `_claim_now`. When cancelled, wait for its end and release the jobs that it claimed."""
        claim = asyncio.ensure_future(self._claim_now(lanes, limit, lease, excluded))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            with suppress(*DATABASE_ERRORS):  # the leases expire by themselves; the cancellation takes precedence
                claimed, _ = await claim
                for job in claimed:
                    await self.release(job)
            raise

    async def _claim_now(
        self, lanes: Sequence[Lane], limit: int, lease: timedelta, excluded: Collection[UUID]
    ) -> tuple[list[Job], float | None]:
        """Claim due jobs without waiting.

        Returns:
            The claimed jobs and None. If no job is due: an empty list, and the seconds until a job comes due, None if
            there is no job.
        """
        claimed: list[Job] = []
        async with self._reserve_slot(lanes), self._engine_for(lanes).begin() as conn:
            await commit_asynchronously(conn)
            for lane in lanes:
                claimed += await self._claim_lane(conn, lane, limit - len(claimed), lease, excluded)
            if claimed:
                return claimed, None
            due = select(func.extract("epoch", func.min(jobs.c.run_at) - func.now())).where(jobs.c.lane.in_(lanes))
            if excluded:
                due = due.where(jobs.c.application_id.not_in(list(excluded)))
            seconds = (await conn.execute(due)).scalar()
        return claimed, None if seconds is None else max(0.0, float(seconds))

    async def _claim_lane(
        self, conn: Connection, lane: Lane, limit: int, lease: timedelta, excluded: Collection[UUID]
    ) -> list[Job]:
        """Claim due jobs of one lane, beginning with the application after the one that was served last.

        So a large campaign of one application does not delay another one. Within an application, jobs are claimed in
        the order in which they came due.
        """
        claimed: list[Job] = []
        while len(claimed) < limit:
            after = self._last_served.get(lane, MIN_UUID)
            values = {"lane": lane, "after": after, "limit": limit - len(claimed), "lease": lease}
            values["excluded"] = list(excluded)
            batch = [_job(row) for row in await conn.execute(CLAIM, values)]
            if not batch and after == MIN_UUID:
                break
            # After the last application, begin again with the first.
            self._last_served[lane] = batch[0].application_id if batch else MIN_UUID
            claimed += batch
        return claimed

    async def renew(self, leased_jobs: Sequence[Job], lease: timedelta) -> set[int]:
        """Extend leases, see `Queue.renew`."""
        if not leased_jobs:
            return set()
        statement = (
            update(jobs)
            .where(tuple_(jobs.c.id, jobs.c.attempt).in_([(job.id, job.lease_generation) for job in leased_jobs]))
            .values(run_at=func.now() + lease)
            .returning(jobs.c.id)
        )
        async with self._urgent_engine.begin() as conn:
            return set((await conn.execute(statement)).scalars())

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Record results, see `Queue.settle`."""
        async with self._reserve_slot([job.lane]):
            engine = self._engine_for([job.lane])
            try:
                async with engine.begin() as conn:
                    await apply(conn, job, settlement, remaining)
            except IntegrityError:
                async with engine.begin() as conn:
                    await apply_unlogged(conn, job, settlement, remaining)

    def _reserve_slot(self, lanes: Sequence[Lane]) -> AbstractAsyncContextManager[None]:
        return nullcontext() if _are_urgent(lanes) else self._non_urgent_slots

    def _engine_for(self, lanes: Sequence[Lane]) -> Engine:
        return self._urgent_engine if _are_urgent(lanes) else self._engine

    async def release(self, job: Job) -> None:
        """Return a job, see `Queue.release`."""
        async with self._engine_for([job.lane]).begin() as conn:
            await requeue(conn, job)


def _are_urgent(lanes: Sequence[Lane]) -> bool:
    return all(lane is Lane.URGENT for lane in lanes)


async def apply(conn: Connection, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> bool:
    """Settle a batch in the transaction of `conn`; return False if the batch was settled before.

    Raises:
        LeaseLost: another worker has claimed the job, or it has ended.
    """
    if not await _shrink(conn, job, settlement.count_devices(), remaining):
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
                    "tries": attempts,
                    "device_ids": device_ids,
                }
                for (due, attempts), device_ids in settlement.requeued.items()
            ],
        )
        await notifier.notify(conn, notifier.JOBS)
    await writer.record(conn, job, settlement)
    return True


async def apply_unlogged(conn: Connection, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> bool:
    """Settle a batch as `apply` does, except for devices that are in the log already; these are removed from the job.

    The gateway itself never creates a job for such devices. But an operator may have restored jobs from a backup, and
    without this function their messages would be sent again after each lease.

    Raises:
        LeaseLost: another worker has claimed the job, or it has ended.
        IntegrityError: the log refuses the results for another reason.
    """
    current_job = await lock_job(conn, job)
    if current_job is None or current_job.lease_generation != job.lease_generation:
        raise LeaseLost
    device_ids = settlement.device_ids()
    logged = await writer.find_logged(conn, job, device_ids & set(current_job.device_ids))
    if logged:
        log.error("job.logged_before", **job.log_fields, devices=len(logged))
        unlogged = [device_id for device_id in current_job.device_ids if device_id not in logged]
        await conn.execute(update(jobs).where(*leased_as(job)).values(device_ids=unlogged))
    return await apply(conn, job, settlement.for_devices(device_ids - logged), remaining)


async def lock_job(conn: Connection, job: Job) -> Job | None:
    """Lock the row of a job; return the job with its current lease and devices, or None if it has ended."""
    query = select(jobs.c.attempt, jobs.c.device_ids).where(jobs.c.id == job.id).with_for_update()
    row = (await conn.execute(query)).first()
    return None if row is None else replace(job, lease_generation=row.attempt, device_ids=tuple(row.device_ids))


async def steal_lease(conn: Connection, job: Job) -> Job | None:
    """Claim a job although another process has its lease; return None if the job has ended."""
    claim = update(jobs).where(jobs.c.id == job.id).values(attempt=jobs.c.attempt + 1).returning(jobs.c.attempt)
    lease_generation = (await conn.execute(claim)).scalar()
    return None if lease_generation is None else replace(job, lease_generation=lease_generation)


async def split_job(conn: Connection, job: Job) -> None:
    """Split a claimed job into two jobs of half the size, which are due now.

    Raises:
        LeaseLost: another worker has claimed the job.
    """
    middle = len(job.device_ids) // 2
    first, second = list(job.device_ids[:middle]), list(job.device_ids[middle:])
    shrink = update(jobs).where(*leased_as(job)).values(device_ids=first, run_at=func.now())
    await execute_leased(conn, shrink)
    row = {name: getattr(job, name) for name in ("application_id", "notification_id", "lane", "day", "slot")}
    await conn.execute(insert(jobs).values(**row, task=job.kind, tries=job.attempts, device_ids=second))
    await notifier.notify(conn, notifier.JOBS)


async def _shrink(conn: Connection, job: Job, settled: int, remaining: Sequence[UUID]) -> bool:
    """Remove `settled` devices from the job, so that the `remaining` ones are left; delete the job if none are left.

    Returns False if the devices were removed before. Raises LeaseLost if the lease was lost.
    """
    values = {"job": job.id, "lease_generation": job.lease_generation, "devices": settled + len(remaining)}
    if not remaining:
        if (await conn.execute(_DELETE, values)).rowcount != 1:
            raise LeaseLost
        return True
    if (await conn.execute(_SHRINK, values | {"remaining": list(remaining)})).rowcount == 1:
        return True
    device_ids = (await conn.execute(select(jobs.c.device_ids).where(*leased_as(job)))).scalar()
    if device_ids == list(remaining):
        return False
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
