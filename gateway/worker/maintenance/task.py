"""The type of a maintenance task."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from gateway.records.postgres.engine import Connection
from gateway.worker.maintenance.retention_policy import RetentionPolicy


class Isolation(Enum):
    """How a task runs beside the same task in other processes."""

    # One transaction, in one process at a time.
    TRANSACTION = auto()
    # A connection in autocommit mode, in one process at a time.
    SESSION = auto()
    # One transaction, in every process.
    SHARED = auto()


@dataclass(frozen=True, slots=True)
class MaintenanceTask:
    """One periodic task; `run` returns how many rows or partitions it changed.

    `key` names the task in metrics, log events and its advisory lock. It never changes, wherever the code moves:
    workers of two versions that run side by side must use the same lock.
    """

    key: str
    interval: timedelta
    run: Callable[[Connection, RetentionPolicy], Awaitable[int]]
    isolation: Isolation = Isolation.TRANSACTION
