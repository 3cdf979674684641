"""Write the log: one appended row per delivery, by COPY, with the counters in the same transaction."""

from collections import Counter
from collections.abc import Set
from uuid import UUID

from sqlalchemy import Float, bindparam, case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.delivery import Accepted, Gone, OutcomeName, Rejected, ResultBatch
from gateway.domain.device import DeviceStatus
from gateway.domain.job import Job
from gateway.domain.notification import RATE_WINDOW, Status
from gateway.records import outbox, personal_data
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import copy_rows
from gateway.records.postgres.schema import applications, deliveries, devices, notifications, progress, variants

# A rate this many windows old is none (and exp() of more would only underflow).
FORGOTTEN = 50.0
VARIANT_OUTCOMES = (OutcomeName.ACCEPTED, OutcomeName.GONE, OutcomeName.REJECTED, OutcomeName.EXPIRED)

DELIVERY_COLUMNS = (
    "day",
    "notification_id",
    "device_id",
    "application_id",
    "position",
    "user_id",
    "host",
    "outcome",
    "status",
    "cause",
    "attempts",
    "attempted_at",
    "duration_ms",
    "settled_at",
    "message",
    "granted_ttl",
    "variant",
)
ATTEMPT_COLUMNS = (
    "day",
    "notification_id",
    "device_id",
    "number",
    "at",
    "duration_ms",
    "status",
    "cause",
    "retry_at",
)


# What follows runs for every batch, and SQLAlchemy takes longer to make a statement than to run it: so it is made once.
_COUNT_RETRIES = (
    update(progress)
    .where(progress.c.notification_id == bindparam("notification"))
    .values(retries=progress.c.retries + bindparam("more_retries"))
    .returning(progress.c.targets - sum(progress.c[name.value] for name in OutcomeName))
)
_WINDOW = RATE_WINDOW.total_seconds()
_FADED = progress.c.rate * func.exp(
    -func.least(func.extract("epoch", func.now() - progress.c.rated_at) / _WINDOW, FORGOTTEN)
)
_COUNT = _COUNT_RETRIES.values(
    **{name.value: progress.c[name.value] + bindparam(f"more_{name.value}") for name in OutcomeName},
    # How long the first batch took is not known: the rate begins with the second.
    rate=case((progress.c.rated_at.is_(None), 0.0), else_=_FADED + bindparam("more", type_=Float) / _WINDOW),
    rated_at=func.now(),
    began_at=func.coalesce(progress.c.began_at, func.now()),
)
_TAKE = (
    update(applications)
    .where(applications.c.id == bindparam("application"))
    .values(log_position=applications.c.log_position + bindparam("size"))
    .returning(applications.c.log_position, applications.c.forgot_at > func.now() - personal_data.TOMBSTONE_LIFETIME)
)


async def record(conn: AsyncConnection, job: Job, settlement: ResultBatch) -> None:
    """Append a batch of one job's results and count them; ends the notification with its last delivery."""
    if settlement.attempts:
        rows = ((job.day, job.notification_id, *attempt) for attempt in settlement.attempts)
        await copy_rows(conn, "attempts", ATTEMPT_COLUMNS, rows)
    counts = Counter(done.outcome.name for done in settlement.settled)
    if counts[OutcomeName.GONE] or counts[OutcomeName.REJECTED]:
        await _mark(conn, settlement)
    await _count(conn, job.notification_id, counts, settlement.retries)
    await _count_variants(conn, job.notification_id, settlement)
    if settlement.settled:
        # Last: until the transaction ends, all other batches of the application wait for its row.
        await _append(conn, job, settlement)


async def find_logged(conn: AsyncConnection, job: Job, device_ids: Set[UUID]) -> set[UUID]:
    """Those of the devices that the job's notification has ended for."""
    d = deliveries.c
    ours = (d.day == job.day, d.notification_id == job.notification_id, d.device_id.in_(device_ids))
    return set((await conn.execute(select(d.device_id).where(*ours))).scalars())


async def _append(conn: AsyncConnection, job: Job, settlement: ResultBatch) -> None:
    # Positions are handed out under the application's row lock and so become visible in order: whoever
    # follows the log and has read up to N never misses a row below it.
    size = len(settlement.settled)
    await notifier.notify(conn, notifier.LOG, str(job.application_id))
    taken = await conn.execute(_TAKE, {"application": job.application_id, "size": size})
    last, may_be_forgotten = taken.one()
    first = last - size + 1
    # Those who were forgotten since the job was loaded.
    nameless = (
        await personal_data.find_erased(conn, [d.device_id for d in settlement.settled]) if may_be_forgotten else ()
    )
    rows = []
    for position, done in enumerate(settlement.settled, first):
        outcome = done.outcome
        nobody = done.device_id in nameless
        message, granted = (outcome.message, outcome.ttl) if isinstance(outcome, Accepted) else (None, None)
        rows.append(
            (
                job.day,
                job.notification_id,
                done.device_id,
                job.application_id,
                position,
                None if nobody else done.user_id,
                done.host,
                outcome.name.value,
                done.status,
                outcome.cause,
                done.attempts,
                done.attempted_at,
                done.duration_ms,
                done.settled_at,
                None if nobody else message,
                granted,
                done.variant,
            )
        )
    await copy_rows(conn, "deliveries", DELIVERY_COLUMNS, rows)


async def _mark(conn: AsyncConnection, settlement: ResultBatch) -> None:
    """Devices that are gone or must subscribe anew are not sent to again."""
    gone = [done.device_id for done in settlement.settled if isinstance(done.outcome, Gone)]
    mismatched = [
        done.device_id for done in settlement.settled if isinstance(done.outcome, Rejected) and done.outcome.quarantine
    ]
    for status, type_, device_ids in (
        (DeviceStatus.GONE, "device.gone", gone),
        (DeviceStatus.QUARANTINED, "device.changed", mismatched),
    ):
        if device_ids:
            # In order of id: two batches that share devices then never wait for each other in a circle.
            marked = await conn.execute(
                update(devices)
                .where(devices.c.id.in_(sorted(device_ids)), devices.c.status == DeviceStatus.ACTIVE)
                .values(status=status, updated_at=func.now())
                .returning(devices.c.id)
            )
            if changed := marked.scalars().all():
                await outbox.append_device_events(conn, type_, devices.c.id.in_(changed))


async def _count(conn: AsyncConnection, notification_id: UUID, counts: Counter[OutcomeName], retries: int) -> None:
    added = {f"more_{name.value}": counts[name] for name in OutcomeName}
    said = {**added, "notification": notification_id, "more": counts.total(), "more_retries": retries}
    if (await conn.execute(_COUNT if counts else _COUNT_RETRIES, said)).scalar_one() == 0:
        ended = case((notifications.c.status == Status.CANCELLED, Status.CANCELLED), else_=Status.DONE)
        this = notifications.c.id == notification_id
        await conn.execute(update(notifications).where(this).values(status=ended, finished_at=func.now()))
        # That it was cancelled was said when it was.
        await outbox.append_notification_events(conn, "notification.done", this, notifications.c.status == Status.DONE)


async def _count_variants(conn: AsyncConnection, notification_id: UUID, settlement: ResultBatch) -> None:
    counts: dict[int, Counter[str]] = {}
    for done in settlement.settled:
        if done.variant is not None and done.outcome.name in VARIANT_OUTCOMES:
            counts.setdefault(done.variant, Counter())[done.outcome.name.value] += 1
    for number in sorted(counts):
        added = {name: variants.c[name] + count for name, count in counts[number].items()}
        this = (variants.c.notification_id == notification_id, variants.c.number == number)
        await conn.execute(update(variants).where(*this).values(**added))
