"""The type of a maintenance task."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from gateway.records.postgres.engine import Connection
from gateway.worker.maintenance.retention_policy import RetentionPolicy


class Isolation(Enum):
    """How a task is isolated from the same task in other processes."""

    # One transaction, in one process at a time.
    TRANSACTION = auto()
    # A connection in autocommit mode, in one process at a time.
    SESSION = auto()
    # One transaction, in every process.
    SHARED = auto()


@dataclass(frozen=True, slots=True)
class MaintenanceTask:
    """One periodic task.

    Attributes:
        key: the name of the task in metrics, log events and its advisory lock. It must never change: workers of two
            versions that run at the same time must use the same lock.
        interval: the time between two runs in one process.
        run: runs the task, and returns the number of rows or partitions that it changed.
        isolation: how the task is isolated from the same task in other processes.
    """

    key: str
    interval: timedelta
    run: Callable[[Connection, RetentionPolicy], Awaitable[int]]
    isolation: Isolation = Isolation.TRANSACTION
