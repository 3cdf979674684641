"""Write delivery results to the log: one row per delivery, by COPY. Counters change in the same transaction."""

from collections import Counter
from collections.abc import Set
from uuid import UUID

from sqlalchemy import DateTime, Float, bindparam, case, func, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.delivery import Accepted, Gone, OutcomeName, Rejected, ResultBatch
from gateway.domain.device import DeviceStatus
from gateway.domain.job import Job
from gateway.domain.notification import RATE_WINDOW, Status
from gateway.records import devices as devices_records
from gateway.records import outbox, personal_data
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import copy_rows
from gateway.records.postgres.schema import applications, deliveries, devices, notifications, progress, variants

# Age of a rate, in multiples of RATE_WINDOW, at which it has decayed to zero. exp() of a greater age would underflow.
MAX_DECAY_WINDOWS = 50.0
# Outcomes that are counted per variant.
VARIANT_OUTCOMES = (OutcomeName.ACCEPTED, OutcomeName.GONE, OutcomeName.REJECTED, OutcomeName.EXPIRED)

# The columns of deliveries and of attempts, in the order of the copied rows.
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


# Prepared once: these statements run for every batch, and building one takes longer than running it. `_COUNT` and
# `_COUNT_RETRIES` return the number of the notification's deliveries that have not ended.
_COUNT_RETRIES = (
    update(progress)
    .where(progress.c.notification_id == bindparam("notification"))
    .values(retries=progress.c.retries + bindparam("more_retries"))
    .returning(progress.c.targets - sum(progress.c[name.value] for name in OutcomeName))
)
_RATE_WINDOW_S = RATE_WINDOW.total_seconds()
# The rate of a notification, decayed since its last update.
_DECAYED_RATE = progress.c.rate * func.exp(
    -func.least(func.extract("epoch", func.now() - progress.c.rated_at) / _RATE_WINDOW_S, MAX_DECAY_WINDOWS)
)
_COUNT = _COUNT_RETRIES.values(
    **{name.value: progress.c[name.value] + bindparam(f"more_{name.value}") for name in OutcomeName},
    # The duration of the first batch is unknown: the rate starts with the second.
    rate=case(
        (progress.c.rated_at.is_(None), 0.0), else_=_DECAYED_RATE + bindparam("more", type_=Float) / _RATE_WINDOW_S
    ),
    rated_at=func.now(),
    began_at=func.coalesce(progress.c.began_at, func.now()),
)
# Reserves log positions. Returns the last one, and whether a user of the application was erased recently.
_RESERVE_POSITIONS = (
    update(applications)
    .where(applications.c.id == bindparam("application"))
    .values(log_position=applications.c.log_position + bindparam("size"))
    .returning(applications.c.log_position, applications.c.forgot_at > func.now() - personal_data.TOMBSTONE_LIFETIME)
)


# Maximum number of devices per batch whose first acceptance is recorded. The first acceptance of the other devices is
# recorded with a later message. Each record costs a row update, and those of some devices of an application suffice as
# evidence that its VAPID key is accepted.
MAX_NEWLY_ACCEPTED = 64


async def record(conn: AsyncConnection, job: Job, batch: ResultBatch) -> None:
    """Write a batch of results of one job, and update the counters.

    The batch with the last delivery of a notification sets the notification's status to done.
    """
    if batch.attempts:
        rows = ((job.day, job.notification_id, *attempt) for attempt in batch.attempts)
        await copy_rows(conn, "attempts", ATTEMPT_COLUMNS, rows)
    counts = Counter(result.outcome.name for result in batch.settled)
    if counts[OutcomeName.GONE] or counts[OutcomeName.REJECTED]:
        await _mark_devices(conn, batch)
    if batch.newly_accepted or batch.reaccepted:
        accepted_ids = batch.reaccepted + batch.newly_accepted[:MAX_NEWLY_ACCEPTED]
        await devices_records.mark_accepted(conn, accepted_ids)
    if refused_ids := batch.refused_devices():
        await devices_records.mark_refused(conn, refused_ids)
    await _count(conn, job.notification_id, counts, batch.retries)
    await _count_variants(conn, job.notification_id, batch)
    if batch.settled:
        # Last, because it locks the application's row until the transaction ends.
        await _append(conn, job, batch)


async def find_logged(conn: AsyncConnection, job: Job, device_ids: Set[UUID]) -> set[UUID]:
    """Return the devices that have a result of the job's notification in the log."""
    d = deliveries.c
    entries = (d.day == job.day, d.notification_id == job.notification_id, d.device_id.in_(device_ids))
    return set((await conn.execute(select(d.device_id).where(*entries))).scalars())


async def _append(conn: AsyncConnection, job: Job, batch: ResultBatch) -> None:
    """Write the results of a batch as rows of the log, at the next positions of the application."""
    # Positions are assigned under the application's row lock, so they become visible in order: a reader that has read
    # up to position N misses no row before N.
    size = len(batch.settled)
    await notifier.notify(conn, notifier.LOG, str(job.application_id))
    reserved = await conn.execute(_RESERVE_POSITIONS, {"application": job.application_id, "size": size})
    last_position, has_recent_erasures = reserved.one()
    first_position = last_position - size + 1
    # Devices that were erased since the job was loaded.
    erased = (
        await personal_data.find_erased(conn, [result.device_id for result in batch.settled])
        if has_recent_erasures
        else ()
    )
    rows = []
    for position, result in enumerate(batch.settled, first_position):
        outcome = result.outcome
        is_erased = result.device_id in erased
        message, granted_ttl = (outcome.message, outcome.ttl) if isinstance(outcome, Accepted) else (None, None)
        rows.append(
            (
                job.day,
                job.notification_id,
                result.device_id,
                job.application_id,
                position,
                None if is_erased else result.user_id,
                result.host,
                outcome.name.value,
                result.status,
                outcome.cause,
                result.attempts,
                result.attempted_at,
                result.duration_ms,
                result.settled_at,
                None if is_erased else message,
                granted_ttl,
                result.variant,
            )
        )
    await copy_rows(conn, "deliveries", DELIVERY_COLUMNS, rows)


async def _mark_devices(conn: AsyncConnection, batch: ResultBatch) -> None:
    """Mark devices that are gone or must subscribe again, so that they receive no more messages.

    A device that has registered again since the first POST of the batch stays active, since the response to its message
    does not concern the new registration.
    """
    first_attempt = min((result.attempted_at for result in batch.settled if result.attempted_at), default=None)
    gone = [result.device_id for result in batch.settled if isinstance(result.outcome, Gone)]
    quarantined = [
        result.device_id
        for result in batch.settled
        if isinstance(result.outcome, Rejected) and result.outcome.quarantine
    ]
    for status, type_, device_ids in (
        (DeviceStatus.GONE, "device.gone", gone),
        (DeviceStatus.QUARANTINED, "device.changed", quarantined),
    ):
        if device_ids:
            # Sorted, so that batches with the same devices lock them in the same order and cannot deadlock.
            marked = await conn.execute(
                update(devices)
                .where(
                    devices.c.id.in_(sorted(device_ids)),
                    devices.c.status == DeviceStatus.ACTIVE,
                    func.coalesce(devices.c.registered_at <= literal(first_attempt, DateTime(timezone=True)), true()),
                )
                .values(status=status, updated_at=func.now())
                .returning(devices.c.id)
            )
            if changed := marked.scalars().all():
                await outbox.append_device_events(conn, type_, devices.c.id.in_(changed))


async def _count(conn: AsyncConnection, notification_id: UUID, counts: Counter[OutcomeName], retries: int) -> None:
    """Increase the counters of a notification. If all of its deliveries have ended, set its status to done."""
    added = {f"more_{name.value}": counts[name] for name in OutcomeName}
    values = {**added, "notification": notification_id, "more": counts.total(), "more_retries": retries}
    unended = (await conn.execute(_COUNT if counts else _COUNT_RETRIES, values)).scalar_one()
    if unended == 0:
        status = case((notifications.c.status == Status.CANCELLED, Status.CANCELLED), else_=Status.DONE)
        same_notification = notifications.c.id == notification_id
        await conn.execute(update(notifications).where(same_notification).values(status=status, finished_at=func.now()))
        # A cancelled notification needs no event here: lifecycle.cancel has written `notification.cancelled`.
        await outbox.append_notification_events(
            conn, "notification.done", same_notification, notifications.c.status == Status.DONE
        )


async def _count_variants(conn: AsyncConnection, notification_id: UUID, batch: ResultBatch) -> None:
    """Increase the counters of the variants by the outcomes of a batch."""
    counts: dict[int, Counter[str]] = {}
    for result in batch.settled:
        if result.variant is not None and result.outcome.name in VARIANT_OUTCOMES:
            counts.setdefault(result.variant, Counter())[result.outcome.name.value] += 1
    for number in sorted(counts):
        added = {name: variants.c[name] + count for name, count in counts[number].items()}
        same_variant = (variants.c.notification_id == notification_id, variants.c.number == number)
        await conn.execute(update(variants).where(*same_variant).values(**added))
