"""Periodic maintenance tasks (retention, pruning, partition creation).

Every worker runs the same table of tasks; an advisory lock ensures that each task runs in one process at a time.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from gateway import metrics
from gateway.records.postgres import advisory_locks
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine
from gateway.worker.maintenance import log_partitions, log_retention, pruning, quarantine, queue_gauges
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import Isolation, MaintenanceTask

# The tasks, in the order of `run_once`. Partitions come first: nothing can be sent without the partition of the day.
TASKS: tuple[MaintenanceTask, ...] = (
    log_partitions.TASK,
    log_retention.TASK,
    *pruning.TASKS,
    quarantine.TASK,
    queue_gauges.TASK,
)

# How long a task waits for a lock. A task that waits blocks the writers queued behind it.
LOCK_TIMEOUT = timedelta(seconds=5)

log = structlog.get_logger(__name__)


async def run_forever(engine: Engine, policy: RetentionPolicy) -> None:
    """Run every task at its interval until cancelled."""
    async with asyncio.TaskGroup() as group:
        for task in TASKS:
            group.create_task(_repeat(task, engine, policy), name=f"maintenance.{task.key}")


async def run_once(engine: Engine, policy: RetentionPolicy) -> dict[str, int]:
    """Run every task now; return the number of rows or partitions that each task changed, by its key."""
    return {task.key: await _run(task, engine, policy) for task in TASKS}


async def _repeat(task: MaintenanceTask, engine: Engine, policy: RetentionPolicy) -> None:
    while True:
        try:
            await _run(task, engine, policy)
        except DATABASE_ERRORS as error:
            log.warning("maintenance.database_unavailable", task=task.key, error=type(error).__name__)
        await asyncio.sleep(task.interval.total_seconds())


async def _run(task: MaintenanceTask, engine: Engine, policy: RetentionPolicy) -> int:
    async with _open_connection(task, engine) as conn:
        if conn is None:
            return 0
        changed = await task.run(conn, policy)
    metrics.MAINTENANCE.labels(task.key).set_to_current_time()
    if changed:
        log.info("maintenance.done", task=task.key, changed=changed)
    return changed


@asynccontextmanager
async def _open_connection(task: MaintenanceTask, engine: Engine) -> AsyncIterator[Connection | None]:
    """Open the connection for a task; yield None if another process is running the task."""
    name = f"gateway.maintenance.{task.key}"
    match task.isolation:
        case Isolation.TRANSACTION:
            opened = advisory_locks.try_transaction_lock(engine, name, lock_timeout=LOCK_TIMEOUT)
        case Isolation.SESSION:
            opened = advisory_locks.try_session_lock(engine, name)
        case Isolation.SHARED:
            opened = engine.begin()
    async with opened as conn:
        yield conn
